"""The requests that decode on an instance, as a scheduler believes them; sums kept up to date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rondo.policy.slack import SlackTable
from rondo.types import RequestInfo, RequestProgress


@dataclass(slots=True)
class LiveRequest:
    """A prefilled request. Its answer has one token more than decode steps since `base_step`.

    `tpot_s` is the limit it is judged by: its own, or a feasible one. `decode_start_s` is None
    while it waits for the end of its turn.
    """

    info: RequestInfo
    tpot_s: float
    base_step: int
    decode_start_s: float | None = None
    key: float = 0.0


class RunningSet:
    """Requests by id, with their saved TPOT and cached tokens: `num` of them, with `context_key`
    plus `num` for each decode step of the instance in the KV cache."""

    def __init__(self) -> None:
        self.slack = SlackTable()
        self.num = 0
        self._live: dict[str, LiveRequest] = {}
        self.context_key = 0

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[str]:
        return iter(self._live)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._live

    def get(self, request_id: str) -> LiveRequest | None:
        """The request, if it decodes."""
        return self._live.get(request_id)

    def values(self) -> Iterator[LiveRequest]:
        """All of them, in order of their start."""
        return iter(self._live.values())

    def add(self, live: LiveRequest) -> None:
        """Its decode began; `decode_start_s` is set."""
        assert live.decode_start_s is not None
        live.key = SlackTable.key(live.tpot_s, live.base_step, live.decode_start_s)
        self.slack.add(live.tpot_s, live.key)
        self._live[live.info.request_id] = live
        self.num = len(self._live)
        self.context_key += live.info.prompt_tokens + 1 - live.base_step

    def pop(self, request_id: str) -> LiveRequest | None:
        """It ended, or has to be added anew."""
        live = self._live.pop(request_id, None)
        if live is not None:
            self.num -= 1
            self.slack.remove(live.tpot_s, live.key)
            self.context_key -= live.info.prompt_tokens + 1 - live.base_step
        return live


def info_of(member: RequestProgress, at_s: float) -> RequestInfo:
    """A live request as its instance reports it, for a scheduler that did not know it."""
    return RequestInfo(
        request_id=member.request_id,
        prompt_tokens=member.prompt_tokens,
        max_tokens=member.max_tokens,
        predicted_tokens=member.predicted_tokens,
        slo=member.slo,
        arrival_s=at_s - member.age_s,
        background=member.background,
    )
