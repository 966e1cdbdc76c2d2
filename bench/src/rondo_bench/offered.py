"""Requests of a length file for runs on real clusters, by the names of their commands' options."""

from __future__ import annotations

from pathlib import Path

from rondo.errors import ConfigError
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.workload import WorkloadSpec, make_workload


def poisson_of(
    folder: Path, file: str, *, rate: float, duration_s: float, seed: int
) -> list[Arrival]:
    """Poisson arrivals over about `duration_s`, at least one, of a length file in `folder`.

    Raises:
        ConfigError: the file is not there, by the name of the option that commands have for it.
    """
    path = folder / file
    if not path.is_file():
        raise ConfigError("--lengths-dir", f"no file {path}")
    num_requests = max(1, round(rate * duration_s))
    spec = WorkloadSpec(lengths=str(path), rate=rate, num_requests=num_requests, seed=seed)
    return make_workload(spec)
