"""Programs that die, and a bus that is not there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai

from rondo.local.model_folder import find_model
from rondo.local.nats_server import NatsServer
from rondo.local.run_dir import read_state
from rondo_bench.chaos.programs import owner_pid
from tests.support.cluster import clean_env, eventually, running

BODY: dict[str, Any] = {
    "model": "rondo-tiny",
    "prompt": "abc",
    "max_tokens": 600,
    "extra_body": {"ignore_eos": True},
}


def test_a_dying_worker_is_not_seen_by_those_it_served(tmp_path: Path, fast_profile: Path) -> None:
    options = ("--engine", "emulated", "--workers", "3", "--profile", str(fast_profile))
    with running(tmp_path, *options) as cluster:
        client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0)
        bodies = [{**BODY, "prompt": f"{'abc ' * i}end"} for i in range(1, 13)]
        expected = [client.completions.create(**body).choices[0].text for body in bodies]
        streams = [client.completions.create(**body, stream=True) for body in bodies]
        texts = [next(iter(stream)).choices[0].text for stream in streams]
        num_running = cluster.metric("worker-0", "rondo_requests")
        assert num_running > 0
        os.kill(cluster.pid_of("rondo-tiny-0"), signal.SIGKILL)
        for index, stream in enumerate(streams):
            texts[index] += "".join(chunk.choices[0].text for chunk in stream)
        assert texts == expected
        assert cluster.metric("gateway", "rondo_resumed_answers_total") >= num_running
        client.close()


def test_the_only_worker_dies_and_its_answers_wait_for_it_to_come_back(
    tmp_path: Path, fast_profile: Path
) -> None:
    options = ("--engine", "emulated", "--workers", "1", "--profile", str(fast_profile))
    with running(tmp_path, *options) as cluster:
        client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0)
        expected = client.completions.create(**BODY).choices[0].text
        stream = iter(client.completions.create(**BODY, stream=True))
        text = next(stream).choices[0].text
        os.kill(cluster.pid_of("rondo-tiny-0"), signal.SIGKILL)
        assert text + "".join(chunk.choices[0].text for chunk in stream) == expected
        client.close()


def test_a_dying_coordinator_is_replaced_and_running_streams_do_not_notice(
    tmp_path: Path, fast_profile: Path
) -> None:
    """There is no stand-by: the launcher starts it again, and nobody else is there to take over."""
    options = ("--engine", "emulated", "--workers", "2", "--profile", str(fast_profile))
    with running(tmp_path, *options, "--coordinators", "1") as cluster:
        client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0)
        epoch = cluster.status()["epoch"]
        stream = client.completions.create(**BODY, stream=True)
        chunks = iter(stream)
        next(chunks)
        nats_url = read_state(cluster.run_dir).nats_url
        owner = asyncio.run(owner_pid((cluster.process.pid,), nats_url))
        assert owner
        os.kill(owner, signal.SIGKILL)
        assert len([chunk for chunk in chunks if chunk.choices[0].text]) > 100
        answer = client.with_options(timeout=40).completions.create(**BODY)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 600
        assert cluster.status()["epoch"] > epoch
        client.close()


PROGRAMS = {
    "rondo_coordinator": {},
    "rondo_gateway": {"RONDO_MODELS": str(find_model(None, weights=False))},
    "rondo_worker": {
        "RONDO_MODEL": str(find_model(None, weights=False)),
        "RONDO_ENGINE": "emulated",
    },
}


async def test_without_a_bus_programs_live_but_are_not_ready(tmp_path: Path) -> None:
    """They name the address they try, and go on by themselves once a server is there."""
    server = NatsServer(tmp_path / "nats")
    await server.start()
    url = server.url
    await server.stop()
    programs = _start_programs(tmp_path, url)
    try:
        await asyncio.to_thread(_check_unready, tmp_path, url)
        await server.start()
        await asyncio.to_thread(_check_ready, tmp_path)
    finally:
        for process in programs:
            process.terminate()
        codes = [process.wait(20) for process in programs]
        await server.stop()
    assert codes == [0, 0, 0]


def _start_programs(folder: Path, nats_url: str) -> list[subprocess.Popen[bytes]]:
    programs = []
    for module, env in PROGRAMS.items():
        state_file = folder / f"{module}.port"
        extra = {**env, "NATS_URL": nats_url, "RONDO_STATE_FILE": str(state_file)}
        with (folder / f"{module}.log").open("w") as log:
            command = [sys.executable, "-m", module]
            programs.append(subprocess.Popen(command, env=clean_env(**extra), stderr=log))
    return programs


def _get(folder: Path, module: str, path: str) -> httpx.Response | None:
    try:
        port = json.loads((folder / f"{module}.port").read_text())["port"]
        return httpx.get(f"http://127.0.0.1:{port}{path}")
    except (FileNotFoundError, httpx.ConnectError):
        return None


def _check_unready(folder: Path, url: str) -> None:
    address = url.removeprefix("nats://")
    for module in PROGRAMS:
        healthy = eventually(lambda m=module: _get(folder, m, "/healthz"), f"{module} listens")
        assert healthy.status_code == 200
        named = eventually(
            lambda m=module: address in _get(folder, m, "/readyz").text,  # type: ignore[union-attr]
            f"{module} names {address}",
        )
        assert named
        assert _get(folder, module, "/readyz").status_code == 503  # type: ignore[union-attr]
        log = folder / f"{module}.log"
        eventually(lambda f=log: address in f.read_text(), f"{module} logs {address}")


def _check_ready(folder: Path) -> None:
    for module in PROGRAMS:
        eventually(
            lambda m=module: _get(folder, m, "/readyz").status_code == 200,  # type: ignore[union-attr]
            f"{module} is ready",
        )
