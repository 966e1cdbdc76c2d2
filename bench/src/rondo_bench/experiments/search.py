"""Goodput searches of experiments: one process each, outcomes kept over runs of the program."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from rondo_bench.sim.capacity import rough_capacity
from rondo_bench.sim.goodput import Goodput, GoodputSearch
from rondo_bench.sim.spec import ClusterSpec
from rondo_bench.sim.trial import attainment_of
from rondo_bench.sim.workload import WorkloadSpec, make_workload

#: A search starts at this share of a rough estimate of the capacity.
START_SHARE = 0.5
#: Resolution of a search in an experiment, and of one that only tunes.
FINE = 1.03
TUNING = 1.06

#: The workload of a run at a rate, with a seed.
Offered = Callable[[float, int], WorkloadSpec]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """Something that a process works out: records, by a function of the module's top level."""

    function: Callable[..., list[Record]]
    arguments: tuple[Any, ...]

    def key(self) -> str:
        """Hash of all that the outcome depends on: the arguments, and the code that is run."""
        own = Path(inspect.getfile(self.function)).read_text()
        described = [self.function.__qualname__, own, *map(_plain, self.arguments), code_hash()]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]

    def run(self) -> list[Record]:
        """Works it out here."""
        return self.function(*self.arguments)


@cache
def code_hash() -> str:
    """Hash of the sources of policies, latency models, simulator and experiments in use."""
    digest = hashlib.sha256()
    for name in sorted(sys.modules):
        if name.startswith(("rondo.policy", "rondo.perf", "rondo_bench.sim")):
            path = sys.modules[name].__file__
            if path is not None:
                digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def run_jobs(
    jobs: Sequence[Job], cache_dir: Path, processes: int
) -> Iterator[tuple[Job, list[Record]]]:
    """Runs the jobs that the cache does not know, and yields all as they are done."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    missing: list[Job] = []
    for job in jobs:
        known = cache_dir / f"{job.key()}.json"
        if known.exists():
            yield job, json.loads(known.read_bytes())
        else:
            missing.append(job)
    with ProcessPoolExecutor(processes) as pool:
        running = {pool.submit(job.run): job for job in missing}
        for future in as_completed(running):
            job, records = running[future], future.result()
            (cache_dir / f"{job.key()}.json").write_text(json.dumps(records))
            yield job, records


def goodputs(
    cluster: ClusterSpec,
    offered: Offered,
    targets: Sequence[float],
    seeds: Sequence[int],
    fine: float = FINE,
) -> list[Goodput]:
    """Goodput of a cluster at several attainment targets; `offered` gives the workload of a run."""

    def measure(rate: float, seeds: Sequence[int]) -> list[float]:
        return [attainment_of(cluster, offered(rate, seed)) for seed in seeds]

    start = START_SHARE * rough_capacity(cluster, make_workload(offered(1.0, seeds[0])))
    search = GoodputSearch(measure, start, seeds, fine)
    return [search.find(target) for target in targets]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = {k: _plain(v) for k, v in asdict(value).items()}
    return msgspec.to_builtins(value, enc_hook=str)
