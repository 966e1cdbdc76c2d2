"""A live cluster under load is hurt in every way there is: every request ends as it must."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rondo_bench.chaos.faults import KINDS

BENCH = str(Path(sys.executable).with_name("rondo-bench"))
#: What no client may see anything of but a pause.
UNSEEN = [
    "worker",
    "worker-slow",
    "worker-stop",
    "coordinator",
    "coordinator-stop",
    "bus",
    "partition",
    "messages",
]
#: The connections of a gateway that is killed break.
SEEN = ["gateway"]
SECONDS = 5 * (len(UNSEEN) + len(SEEN) + 1)

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def phases() -> dict[str, dict[str, Any]]:
    """The reports of one run, by kind of fault; all kinds together come last."""
    command = [BENCH, "chaos", "--json", "--phases", "--concurrency", "12", "--workers", "3"]
    command += ["--seconds", str(SECONDS), "--faults", ",".join([*UNSEEN, *SEEN])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=380, check=False)
    assert done.stdout, done.stderr
    return {phase["phase"]: phase for phase in json.loads(done.stdout)["phases"]}


def check_promise(report: dict[str, Any]) -> None:
    """Whatever a client saw, it was no wrong answer, and no endless one."""
    wrong = ("hung", "lost_tokens", "duplicated_tokens", "mismatched_texts", "bad_endings")
    assert all(report[name] == 0 for name in wrong), report
    assert report["left_behind"] == "", report


@pytest.mark.parametrize("kind", UNSEEN)
def test_clients_see_nothing_of_it(phases: dict[str, dict[str, Any]], kind: str) -> None:
    report = phases[kind]
    assert report["faults"][kind] >= 1
    assert report["requests"] == report["completed"] >= 12, report
    check_promise(report)


@pytest.mark.parametrize("kind", [*SEEN, "all of them"])
def test_the_end_of_a_gateway_is_seen_on_its_connections_only(
    phases: dict[str, dict[str, Any]], kind: str
) -> None:
    report = phases[kind]
    assert report["faults"]
    assert report["completed"] > 0
    assert not any("500" in error for error in report["errors"]), report
    check_promise(report)


def test_a_worker_that_hangs_is_dropped_and_one_that_stutters_is_not(
    phases: dict[str, dict[str, Any]],
) -> None:
    silent = "left: silent for 4 s"
    hung, slow = phases["worker-stop"]["members"], phases["worker-slow"]["members"]
    assert hung[silent] >= 1
    assert hung["joined"] >= 1, "it came back"
    assert silent not in slow


def test_who_asks_for_an_unknown_fault_is_told_which_there_are() -> None:
    command = [BENCH, "chaos", "--faults", "worker,weather"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--faults" in done.stderr
    assert f"'weather' is none of {', '.join(KINDS)}" in done.stderr
