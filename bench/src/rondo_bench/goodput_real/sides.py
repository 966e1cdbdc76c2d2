"""The sides: Rondo's cluster of two instances, and two plain `vllm serve`; one core an instance.

What computes is pinned, an instance a core, on every side alike. What is in front of it (gateway,
coordinators and nats-server there, the API servers here) and the client run where they find time.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rondo.errors import ConfigError
from rondo.local.control import list_programs
from rondo.local.run_dir import read_state
from rondo.policy.catalog import LIVE_POLICY_NAMES
from rondo_bench.engines.compare import python_of
from rondo_bench.goodput_real import model
from rondo_bench.local_cluster import local_cluster
from rondo_bench.streaming.cpu import pin
from rondo_bench.streaming.measure import program_env
from rondo_bench.streaming.others import child_process, descendants, free_port, until_ready

PLAIN = "vllm"
#: vLLM's own bound on sequences of a step on a CPU; its token budget may not be below it.
VLLM_MAX_SEQS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all sides have in common: the engine of the clusters, and one core for each instance.

    `journal`: clusters keep decision journals, in `work`/run-POLICY/journal.
    """

    engine: str
    dtype: str
    compiled: bool
    kv_mib: int
    cores: tuple[int, ...]
    model: Path
    work: Path
    journal: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A side that is ready. `engines` are the processes that compute, `front` those before them."""

    urls: tuple[str, ...]
    engines: tuple[int, ...]
    front: tuple[int, ...]
    reads_slo: bool


@dataclass(frozen=True, slots=True)
class Side:
    """What a name means. `host` is what has to run for it: sides may share a cluster.

    `padg:0.9`: the cluster with that policy, told nine tenths of the limits, as an operator does
    whose engine is not exactly as predicted. `vllm:256`: plain servers with that token budget.
    """

    name: str
    host: str
    margin: float = 1.0
    budget: int | None = None

    @property
    def is_plain(self) -> bool:
        """Two plain servers."""
        return self.host.partition(":")[0] == PLAIN


def parse_side(name: str) -> Side:
    """Raises ConfigError unless it is POLICY, POLICY:MARGIN, `vllm` or `vllm:TOKENS`."""
    kind, colon, knob = name.partition(":")
    try:
        if kind == PLAIN:
            budget = int(knob) if colon else None
            if budget is None or budget > 0:
                return Side(name, name, budget=budget)
        elif kind in LIVE_POLICY_NAMES:
            margin = float(knob) if colon else 1.0
            if 0 < margin <= 1:
                return Side(name, kind, margin=margin)
    except ValueError:
        pass
    known = ", ".join((*LIVE_POLICY_NAMES, PLAIN))
    raise ConfigError("--sides", f"{name!r}: expected one of {known}; POLICY:MARGIN, vllm:TOKENS")


def start_side(side: Side, setup: Setup) -> AbstractAsyncContextManager[Running]:
    """Starts a side; it is pinned, and answers, while the block lasts.

    Raises:
        ClusterFailed, OtherFailed: it did not get ready.
    """
    return _plain(setup, side.budget) if side.is_plain else _cluster(setup, side.host)


@asynccontextmanager
async def _cluster(setup: Setup, policy: str) -> AsyncIterator[Running]:
    run_dir = setup.work / f"run-{policy}"
    run_dir.mkdir(parents=True, exist_ok=True)
    env = {
        "RONDO_POLICY": policy,
        "RONDO_DTYPE": setup.dtype,
        "RONDO_THREADS": "1",
        "RONDO_COMPILE": "on" if setup.compiled else "off",
        "RONDO_KV_MEMORY_MIB": str(setup.kv_mib),
        "RONDO_LOG_LEVEL": "WARNING",
        "NATS_URL": "",
    }
    if setup.journal:
        env["RONDO_JOURNAL"] = str(run_dir / "journal")
    options = ["--engine", setup.engine, "--workers", str(len(setup.cores))]
    options += ["--model", str(setup.model), "--model-name", model.NAME]
    python = python_of(setup.engine)
    async with local_cluster(run_dir, options, env, python) as url:
        programs = await list_programs(run_dir)
        workers = [one.pid for one in programs if one.kind == "worker" and one.pid]
        for pid, core in zip(workers, setup.cores, strict=True):
            for each in (pid, *descendants(pid)):
                pin(each, core)
        launcher = read_state(run_dir).pid
        front = tuple(pid for pid in descendants(launcher) if pid not in workers)
        yield Running((url,), tuple(workers), front, reads_slo=True)


@asynccontextmanager
async def _plain(setup: Setup, budget: int | None) -> AsyncIterator[Running]:
    """All servers start together; each has an engine core of its own process, which is pinned."""
    python, work = python_of(PLAIN), setup.work
    async with AsyncExitStack() as stack:
        started: list[tuple[int, str, Path]] = []
        for core in setup.cores:
            port = free_port()
            log = work / f"vllm-{budget or 'default'}-{core}.log"
            child = child_process(_command(python, port, setup, budget), _env(setup, core), log)
            started.append(
                (await stack.enter_async_context(child), f"http://127.0.0.1:{port}", log)
            )
        engines: list[int] = []
        for (pid, url, log), core in zip(started, setup.cores, strict=True):
            await until_ready(pid, f"{url}/health", log)
            for each in descendants(pid):
                pin(each, core)
                engines.append(each)
        urls = tuple(url for _, url, _ in started)
        fronts = tuple(pid for pid, _, _ in started)
        yield Running(urls, tuple(engines), fronts, reads_slo=False)


def _command(python: str, port: int, setup: Setup, budget: int | None) -> Sequence[str]:
    """vLLM's own defaults but for what is said here; its logs cost time, so they are off."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(setup.model)]
    command += ["--served-model-name", model.NAME, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", setup.dtype, "--disable-log-stats"]
    command += ["--disable-uvicorn-access-log", "--no-enable-log-requests"]
    if not setup.compiled:
        command += ["--enforce-eager"]
    if budget is not None:
        command += ["--max-num-batched-tokens", str(budget)]
        command += ["--max-num-seqs", str(min(budget, VLLM_MAX_SEQS))]
    return command


def _env(setup: Setup, core: int) -> dict[str, str]:
    caches = Path(python_of(PLAIN)).parent.parent / "cache"
    return program_env(
        VLLM_CPU_KVCACHE_SPACE=f"{setup.kv_mib / 1024:g}",
        VLLM_CPU_OMP_THREADS_BIND=str(core),
        VLLM_NO_USAGE_STATS="1",
        VLLM_DO_NOT_TRACK="1",
        VLLM_CACHE_ROOT=str(caches / "vllm"),
        VLLM_CONFIG_ROOT=str(caches / "vllm-config"),
        TORCHINDUCTOR_CACHE_DIR=str(caches / "inductor"),
        HF_HUB_OFFLINE="1",
        HOME=str(setup.work),
        PATH=f"{Path(python_of(PLAIN)).parent}:{os.environ.get('PATH', '')}",
    )
