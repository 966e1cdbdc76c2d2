"""The run folder of a local cluster: its state file, logs, and the bus's store."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rondo.errors import ConfigError

DEFAULT = ".rondo"
_STATE = "cluster.json"


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running local cluster can be found.

    `began` tells its process from a later one with the same id: a launcher that was killed leaves
    its state behind, and nobody else is to be taken, or ended, for it.
    """

    pid: int
    began: str
    api_url: str
    nats_url: str
    model: str


def write_state(run_dir: Path, state: ClusterState) -> None:
    """Makes the cluster known to `status`, `ask` and `down`."""
    draft = run_dir / f"{_STATE}.tmp"
    draft.touch(0o600)  # it holds the operator's password of the bus
    draft.write_bytes(msgspec.json.encode(state))
    draft.replace(run_dir / _STATE)


def clear_state(run_dir: Path) -> None:
    """The cluster has stopped."""
    (run_dir / _STATE).unlink(missing_ok=True)


def read_state(run_dir: Path) -> ClusterState:
    """The running cluster of a run folder.

    Raises:
        ConfigError: there is none.
    """
    try:
        state = msgspec.json.decode((run_dir / _STATE).read_bytes(), type=ClusterState)
    except FileNotFoundError:
        problem = f"no cluster runs from {run_dir}; `rondo up` starts one"
        raise ConfigError("--run-dir", problem) from None
    except msgspec.DecodeError as error:
        raise ConfigError("--run-dir", f"{run_dir / _STATE} is damaged: {error}") from error
    if began(state.pid) != state.began:
        raise ConfigError("--run-dir", f"the cluster of {run_dir} (pid {state.pid}) is gone")
    return state


def is_running(run_dir: Path, state: ClusterState) -> bool:
    """Whether the launcher has not finished stopping."""
    return (run_dir / _STATE).exists() and began(state.pid) == state.began


def began(pid: int) -> str:
    """When a process began, in the kernel's words; empty when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{fields[19]} of {boot}"
