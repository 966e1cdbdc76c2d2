"""Programs are killed under load: every request ends well, with the text it must have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = str(Path(sys.executable).with_name("rondo-bench"))


def chaos(*options: str) -> dict[str, Any]:
    command = [BENCH, "chaos", "--json", "--concurrency", "12", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


# The only coordinator needs some seconds to be back; killed again and again, it answers nobody.
@pytest.mark.parametrize(("faults", "period_s"), [("worker", 3), ("coordinator,bus", 7)])
def test_clients_see_nothing_of_programs_that_are_killed(faults: str, period_s: int) -> None:
    period = str(period_s)
    options = ("--seconds", "15", "--workers", "3", "--period-s", period, "--faults", faults)
    report = chaos(*options)
    assert set(report["faults"]) == set(faults.split(","))
    assert report["requests"] == report["completed"] > 12, report
    wrong = ("lost_tokens", "duplicated_tokens", "mismatched_texts", "hung")
    assert all(report[name] == 0 for name in wrong), report


def test_who_asks_for_an_unknown_fault_is_told_which_there_are() -> None:
    command = [BENCH, "chaos", "--faults", "worker,weather"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--faults" in done.stderr
    assert "'weather' is none of worker, coordinator, gateway, bus" in done.stderr
