"""Every program is replaced under load, and no client notices."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from pathlib import Path

import httpx
import pytest

from rondo.local.model_folder import find_model
from tests.support.closed_loop import NUM_CLIENTS, Load, body
from tests.support.cluster import FAST_PROFILE, RONDO, Cluster, clean_env, eventually, running


@pytest.mark.timeout(400)  # seven programs, and every start loads much
async def test_every_program_is_replaced_under_load_and_no_client_notices(
    tmp_path: Path, fast_profile: Path
) -> None:
    options = ("--engine", "emulated", "--workers", "3", "--coordinators", "2", "--gateways", "2")
    with running(tmp_path, *options, "--profile", str(fast_profile)) as cluster:
        load = Load(cluster.url)
        before = programs(cluster)
        said: list[str] = []

        async def restart() -> None:
            command = [RONDO, "restart", "--run-dir", str(tmp_path)]
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, env=clean_env()
            )
            output, _ = await process.communicate()
            assert process.returncode == 0, output
            said.extend(output.decode().splitlines())

        await load.around(restart())
        after = programs(cluster)
        print(f"{load.num_done} answers, longest admission gap {load.longest_gap_s():.2f} s")
    assert load.wrong == []
    assert load.num_done > 4 * NUM_CLIENTS
    assert [line.split()[0] for line in said[::2]] == list(before) == list(after)
    assert len(before) == 7
    assert not set(before.values()) & set(after.values())


def programs(cluster: Cluster) -> dict[str, int]:
    status = json.loads(cluster.cli("status", "--json").stdout)
    assert all(program["ready"] for program in status["programs"])
    return {program["name"]: program["pid"] for program in status["programs"]}


def test_a_stopping_gateway_finishes_what_it_has_and_takes_nothing_new(
    tmp_path: Path, fast_profile: Path
) -> None:
    """Its streams end whole; connections that are open or waiting lose nothing."""
    options = ("--engine", "emulated", "--workers", "1", "--profile", str(fast_profile))
    with running(tmp_path, *options) as cluster:
        own = f"http://127.0.0.1:{cluster.port('gateway')}"
        [gateway] = [
            p["pid"]
            for p in json.loads(cluster.cli("status", "--json").stdout)["programs"]
            if p["kind"] == "gateway"
        ]
        kept, fresh = httpx.Client(base_url=cluster.url), httpx.Client(base_url=cluster.url)
        assert kept.get("/healthz").headers.get("connection") is None
        with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body(1, 900)) as stream:
            lines = stream.iter_lines()
            next(lines)
            os.kill(gateway, signal.SIGTERM)
            drained = eventually(
                lambda: (r := httpx.get(f"{own}/readyz")).status_code == 503 and r, "it drains"
            )
            assert "draining" in drained.text
            answer = kept.get("/healthz")  # on the connection that was open before
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            # A new connection waits for the one that the launcher starts.
            assert fresh.get("/v1/models", timeout=30).status_code == 200
            assert list(lines)[-2] == "data: [DONE]"
        kept.close()
        fresh.close()


def test_a_gateway_told_twice_ends_its_streams_with_a_typed_error(tmp_path: Path) -> None:
    profile = tmp_path / "slow.json"
    profile.write_text(json.dumps({**FAST_PROFILE, "decode_ms": [50.0, 0.0, 0.0]}))
    options = ("--engine", "emulated", "--workers", "1", "--profile", str(profile))
    with running(tmp_path, *options) as cluster:
        with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body(1, 900)) as stream:
            assert stream.status_code == 200
            lines = stream.iter_lines()
            next(lines)
            began_s = time.monotonic()
            cluster.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "stopping"
        assert cluster.process.wait(20) == 0
        assert time.monotonic() - began_s < 15
        assert "Traceback" not in (tmp_path / "gateway.log").read_text()


def test_where_the_new_one_does_not_come_up_the_old_one_goes_on(
    tmp_path: Path, fast_profile: Path
) -> None:
    model = tmp_path / "rondo-tiny"
    shutil.copytree(find_model(None, weights=False), model)
    options = ("--engine", "emulated", "--workers", "1", "--model", str(model))
    with running(tmp_path / "run", *options, "--profile", str(fast_profile)) as cluster:
        before, port = programs(cluster), cluster.port("gateway")
        (model / "tokenizer.json").rename(model / "elsewhere")
        result = cluster.cli("restart", "gateway")
        assert result.returncode == 1
        assert "gateway ended with exit code" in result.stderr
        assert "tokenizer.json" in result.stderr
        assert programs(cluster) == before
        assert cluster.port("gateway") == port
        assert httpx.get(f"{cluster.url}/readyz").status_code == 200
        (model / "elsewhere").rename(model / "tokenizer.json")
        assert cluster.cli("restart", "gateway").returncode == 0
        assert programs(cluster)["gateway"] != before["gateway"]
