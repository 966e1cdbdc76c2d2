"""The journals of a real cluster replay, bit for bit, to the decisions that were made."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from rondo.journal import Ending, JournalReader, Record
from rondo.policy import events
from rondo.policy.catalog import make_policy
from rondo_bench.replay_cmd import Comparison, replay
from tests.support.cluster import FAST_PROFILE, Cluster, eventually, running

NUM_REQUESTS = 24
STOPPED = "rondo_journals_stopped_total"
BODY: dict[str, Any] = {"model": "rondo-tiny", "prompt": "abc", "ignore_eos": True}


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Decode steps of 10 ms: an answer of 1,000 tokens takes 10 s."""
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({**FAST_PROFILE, "decode_ms": [10.0, 0.02, 0.0]}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journals"


def cluster(policy: str, folder: Path, profile: Path, tmp_path: Path) -> Any:
    options = ("--engine", "emulated", "--workers", "2", "--coordinators", "1")
    env = {"RONDO_JOURNAL": str(folder), "RONDO_POLICY": policy}
    return running(tmp_path / "run", *options, "--profile", str(profile), **env)


def complete(cluster: Cluster, index: int) -> None:
    """One answer, short or long."""
    body = {**BODY, "prompt": "abc " * (1 + 13 * index % 60), "max_tokens": 1 + 7 * index % 40}
    answer = httpx.post(f"{cluster.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


def serve_some(cluster: Cluster) -> None:
    """Answers side by side, and one that its client leaves."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: complete(cluster, index), range(NUM_REQUESTS)))
    assert len(answers) == NUM_REQUESTS
    body = {**BODY, "max_tokens": 400, "stream": True}
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=30) as response:
        lines = response.iter_lines()
        for _ in range(3):
            next(lines)
    eventually(lambda: num_running(cluster) == 0, "the cancelled answer is over")


def num_running(cluster: Cluster) -> int:
    return sum(instance["num_running"] for instance in cluster.status()["instances"])


def journals(folder: Path) -> Iterator[tuple[JournalReader, list[Record], Comparison]]:
    """Each epoch's: its reader, records and replay."""
    readers = [JournalReader(path) for path in folder.iterdir()]
    for reader in sorted(readers, key=lambda reader: reader.header.epoch):
        policy = make_policy(reader.header.policy, reader.header.settings)
        yield reader, list(reader), replay(reader, policy)


def kinds(records: list[Record]) -> set[type]:
    return {type(record.event) for record in records}


def check_equal(comparison: Comparison) -> None:
    assert comparison.first is None
    assert comparison.num_equal == comparison.num_events


@pytest.mark.parametrize("policy", ["padg", "padg-paper", "chunked-jsq"])
def test_a_live_journal_replays_to_the_same_decisions(
    policy: str, folder: Path, profile: Path, tmp_path: Path
) -> None:
    with cluster(policy, folder, profile, tmp_path) as live:
        serve_some(live)
        num_admitted = live.metric("coordinator", "rondo_admitted_requests_total")
        live.stop()
    [(reader, records, comparison)] = journals(folder)
    check_equal(comparison)
    assert reader.ending is Ending.CLOSED
    assert reader.header.policy == policy
    assert comparison.recorded.admitted == num_admitted == NUM_REQUESTS + 1
    assert kinds(records) >= {
        events.RequestArrived,
        events.RequestCancelled,
        events.InstanceJoined,
        events.InstanceReported,
    }
    effects = {type(effect) for record in records for effect in record.decision.effects}
    assert effects >= {events.Admit, events.GrantTurn, events.CancelOn, events.Observed}


def test_the_journal_of_a_killed_coordinator_replays_and_the_next_epoch_has_its_own(
    folder: Path, profile: Path, tmp_path: Path
) -> None:
    with cluster("padg", folder, profile, tmp_path) as live:
        serve_some(live)
        [path] = folder.iterdir()
        told = live.metric("coordinator", "rondo_journal_records_total")
        eventually(lambda: len(list(JournalReader(path))) >= told, "it is on disk")
        os.kill(live.pid("rondo_coordinator"), signal.SIGKILL)
        eventually(lambda: len(list(folder.iterdir())) == 2, "a new epoch")
        complete(live, 7)
        live.stop()
    (first, _, before), (second, records, after) = journals(folder)
    check_equal(before)
    assert first.ending in (Ending.OPEN, Ending.TORN)
    assert before.recorded.admitted == NUM_REQUESTS + 1
    check_equal(after)
    assert second.ending is Ending.CLOSED
    assert second.header.epoch > first.header.epoch
    assert after.recorded.admitted == 1
    assert events.InstanceJoined in kinds(records)


def test_a_journal_that_cannot_be_written_harms_nobody(
    folder: Path, profile: Path, tmp_path: Path
) -> None:
    folder.write_text("a file is in the way")
    with cluster("padg", folder, profile, tmp_path) as live:
        complete(live, 1)
        eventually(lambda: live.metric("coordinator", STOPPED) == 1, "the journal is off")
        told = live.metric("coordinator", "rondo_journal_records_total")
        complete(live, 2)
        assert live.metric("coordinator", "rondo_journal_records_total") == told
        assert live.metric("coordinator", STOPPED) == 1
        assert live.stop() == 0
    assert (tmp_path / "run" / "coordinator.log").read_text().count("journal_stopped") == 1
