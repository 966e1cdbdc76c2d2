"""What a user would run instead: vLLM's API server and LiteLLM's proxy, under the same client.

vLLM: `vllm serve` with the model that ships; its engine core is a process of its own, so the API
server's processor time is what its front end costs. The engine limits the rate, not the figure.
LiteLLM: its proxy in front of the trivial server of streams, whose time does not count either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from rondo.errors import PeerError
from rondo.local.model_folder import find_model
from rondo.local.process import die_with_parent
from rondo_bench.load.server_process import python_server
from rondo_bench.streaming.cpu import cpu_s, pin
from rondo_bench.streaming.measure import MARK, Load, Round, body, program_env
from rondo_bench.streaming.sink import Counts, stream_all

START_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 20.0
#: Of the server behind LiteLLM: one event each this long and stream.
BACKEND_PACE_S = 0.02
_LITELLM_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {backend}/v1
      api_key: none
litellm_settings:
  drop_params: true
  telemetry: false
"""


class OtherFailed(PeerError):
    """The other side did not start, or answered short."""


@dataclass(frozen=True, slots=True)
class Other:
    """A side that is ready. `pids` are the processes whose time counts; `marked`: it has the model
    that ships, which is made to say one token only, as the gateway is fed."""

    url: str
    model: str
    pids: tuple[int, ...]
    key: str = "none"
    marked: bool = False


@asynccontextmanager
async def vllm_server(python: Path, core: int, engine_core: int) -> AsyncIterator[Other]:
    """`vllm serve` from the venv of `python`; its API server on `core`, its engine on another.

    Raises:
        OtherFailed: it did not get ready.
    """
    model = find_model(None, weights=True)
    port = free_port()
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enforce-eager", "--max-num-seqs", "256", "--disable-log-stats"]
    command += ["--disable-uvicorn-access-log", "--no-enable-log-requests"]
    with tempfile.TemporaryDirectory(prefix="rondo-vllm-") as scratch:
        env = program_env(
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_CPU_OMP_THREADS_BIND=str(engine_core),
            VLLM_NO_USAGE_STATS="1",
            VLLM_CACHE_ROOT=f"{scratch}/cache",
            VLLM_CONFIG_ROOT=f"{scratch}/config",
            HF_HUB_OFFLINE="1",
            HOME=scratch,
        )
        log = Path(scratch) / "log"
        async with child_process(command, env, log) as pid:
            await until_ready(pid, f"http://127.0.0.1:{port}/health", log)
            pin(pid, core)  # not before: starting takes all cores
            for child in descendants(pid):
                pin(child, engine_core)
            yield Other(f"http://127.0.0.1:{port}", model.name, (pid,), marked=True)


@asynccontextmanager
async def litellm_proxy(python: Path, core: int, backend_core: int) -> AsyncIterator[Other]:
    """LiteLLM's proxy, one process on `core`, before the trivial server on another.

    Raises:
        OtherFailed: it did not get ready.
    """
    model, port = "words", free_port()
    with tempfile.TemporaryDirectory(prefix="rondo-litellm-") as scratch:
        pace = ["--pace-s", str(BACKEND_PACE_S)]
        async with python_server("rondo_bench.load.sse_server", pace) as backend:
            pin(backend.pid, backend_core)
            config = Path(scratch) / "config.yaml"
            config.write_text(_LITELLM_CONFIG.format(model=model, backend=backend.url))
            command = [str(python.parent / "litellm"), "--config", str(config)]
            command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
            key = f"sk-{secrets.token_hex(16)}"  # it does not start without one
            env = program_env(
                LITELLM_MASTER_KEY=key,
                LITELLM_LOG="ERROR",
                LITELLM_LOCAL_MODEL_COST_MAP="True",
                HOME=scratch,
            )
            log = Path(scratch) / "log"
            async with child_process(command, env, log) as pid:
                await until_ready(pid, f"http://127.0.0.1:{port}/health/liveliness", log)
                pids = (pid, *descendants(pid))
                for one in pids:
                    pin(one, core)
                yield Other(f"http://127.0.0.1:{port}", model, pids, key)


async def run_other(other: Other, load: Load) -> Round:
    """One round; the tokens are those asked for.

    Events may be fewer: a server that is behind puts several tokens into one.
    """
    total = Counts()
    bodies = [body(other.model, load, marked=other.marked)] * load.num_streams
    path = "/v1/chat/completions" if load.chat else "/v1/completions"
    began_s, cpu_began_s = time.monotonic(), cpu_s(other.pids)
    await stream_all(other.url, path, bodies, total=total, mark=MARK, key=other.key)
    wall_s, used_s = time.monotonic() - began_s, cpu_s(other.pids) - cpu_began_s
    num_tokens = load.num_streams * load.output_tokens
    seen = total.marks if other.marked else total.events
    if seen < num_tokens:
        raise OtherFailed(f"{seen} of {num_tokens} tokens came")
    return Round(num_tokens=num_tokens, num_events=total.events, wall_s=wall_s, cpu_s=used_s)


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@asynccontextmanager
async def child_process(
    command: Sequence[str], env: dict[str, str], log: Path
) -> AsyncIterator[int]:
    """Runs a program while the block lasts, its words into `log`; its process id."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, env=env, stdout=out, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
        )
    try:
        yield process.pid
    finally:
        children = descendants(process.pid)
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        for pid in (process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


async def until_ready(pid: int, url: str, log: Path | None = None) -> None:
    """Returns when `url` answers 200.

    Raises:
        OtherFailed: it did not in time, or its process has ended; with the end of its log.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline_s and _lives(pid):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.5)
    raise OtherFailed(f"{url} was not ready in time{_end_of(log)}")


def _lives(pid: int) -> bool:
    """Whether it runs; one that has ended is a zombie until somebody waits for it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def _end_of(log: Path | None) -> str:
    return f": {log.read_text(errors='replace')[-1500:]}" if log else ""


def descendants(pid: int) -> tuple[int, ...]:
    """Children and theirs, as far as they are there now."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return tuple(found)
