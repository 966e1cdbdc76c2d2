"""The state file of a local cluster: whose it is, and whose it is no longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rondo.errors import ConfigError
from rondo.local import run_dir as rd


def state_of(pid: int) -> rd.ClusterState:
    return rd.ClusterState(pid=pid, began=rd.began(pid), api_url="u", nats_url="n", model="m")


def test_a_running_cluster_is_found_by_its_owner_alone(tmp_path: Path) -> None:
    state = state_of(os.getpid())
    rd.write_state(tmp_path, state)
    assert rd.read_state(tmp_path) == state
    assert rd.is_running(tmp_path, state)
    assert (tmp_path / "cluster.json").stat().st_mode & 0o777 == 0o600
    rd.clear_state(tmp_path)
    assert not rd.is_running(tmp_path, state)


def test_a_process_with_the_number_of_one_that_is_gone_is_somebody_else(tmp_path: Path) -> None:
    rd.write_state(tmp_path, msgspec.structs.replace(state_of(os.getpid()), began="7 of another"))
    with pytest.raises(ConfigError, match=f"pid {os.getpid()}. is gone"):
        rd.read_state(tmp_path)


def test_who_has_ended_is_gone_before_anybody_has_asked_how(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = state_of(child.pid)
    rd.write_state(tmp_path, state)
    assert rd.is_running(tmp_path, state)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not rd.is_running(tmp_path, state)
    child.communicate()
    assert rd.began(child.pid) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [(None, "no cluster runs from .*; `rondo up` starts one"), ("{", "cluster.json is damaged")],
)
def test_without_a_state_there_is_no_cluster(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    if text is not None:
        (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        rd.read_state(tmp_path)
