"""The queue of requests that wait for admission."""

from __future__ import annotations

import pickle

from rondo.policy.pending import PendingQueue
from rondo.types import RequestInfo, Slo


def asked(request_id: str, arrival_s: float = 0.0) -> RequestInfo:
    return RequestInfo(
        request_id=request_id,
        prompt_tokens=100,
        max_tokens=10,
        predicted_tokens=10,
        slo=Slo(ttft_s=1.0, tpot_s=0.1),
        arrival_s=arrival_s,
    )


def ids(queue: PendingQueue) -> list[str]:
    return [request.request_id for request in queue]


def test_requests_come_by_rank_and_those_of_one_rank_by_coming() -> None:
    queue = PendingQueue()
    for request_id, rank in (("late", 3.0), ("a", 2.0), ("b", 2.0), ("early", 1.0)):
        queue.add(asked(request_id), rank, 0.5)
    assert ids(queue) == ["early", "a", "b", "late"]
    assert [request.request_id for request in queue.first(2)] == ["early", "a"]
    assert queue.least_rank() == 1.0
    queue.rerank("a", 4.0)
    assert ids(queue) == ["early", "b", "late", "a"]
    assert queue.rank_of("a") == 4.0


def test_work_is_that_of_those_who_are_there() -> None:
    queue = PendingQueue()
    for number, work_s in enumerate((0.25, 0.5, 1.0)):
        queue.add(asked(f"r{number}"), float(number), work_s)
    assert queue.work_s == 1.75
    assert queue.work_before("r2") == 0.75
    queue.pop("r0")
    assert queue.work_s == 1.5
    assert queue.work_before("r1") == 0.0
    assert queue.work_before("r2") == 0.5
    assert queue.pop("r0") is None
    assert queue.num == len(queue) == 2


def test_the_oldest_is_the_one_that_arrived_first_of_those_who_are_there() -> None:
    queue = PendingQueue()
    for request_id, arrival_s in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        queue.add(asked(request_id, arrival_s), 0.0, 0.1)
    for request_id in "abc":
        oldest = queue.oldest()
        assert oldest is not None
        assert oldest.request_id == request_id
        queue.pop(request_id)
    assert queue.oldest() is None


def test_nothing_is_kept_of_requests_that_never_wait() -> None:
    queue = PendingQueue()
    sizes = set()
    for number in range(1000, 1100):
        queue.add(asked(f"r{number}", float(number)), float(number), 0.1)
        queue.pop(f"r{number}")
        sizes.add(len(pickle.dumps(queue)))
    assert len(sizes) == 1, "it grows"
    assert queue.work_s == 0.0
