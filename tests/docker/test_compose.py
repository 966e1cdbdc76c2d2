"""`docker compose up`: healthy, answering, scaled under load, and surviving its containers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import aiohttp
import pytest
from openai import OpenAI

from rondo.scaling.compose import ComposeFailed, ComposeInstances, ComposeProject
from tests.docker.load import Load, ask
from tests.docker.project import FOLDER, MODEL, Project, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

#: On a machine that has nothing else to do.
HEALTHY_WITHIN_S = 90.0
LARGEST_IMAGE_BYTES = 250e6
SERVICES = ("nats", "coordinator", "gateway", "worker", "proxy")


async def eventually(true: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not await asyncio.to_thread(true):
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.5)


def joined(project: Project) -> set[str]:
    """Instances that the coordinator knows; a worker's container id begins with its own."""
    return {str(instance["instance_id"]) for instance in project.status()}


def test_it_is_healthy_in_time(project: Project) -> None:
    print(f"built after {project.built_after_s:.1f} s")
    print(f"healthy after {project.healthy_after_s:.1f} s, {project.crowd:.1f} processes a core")
    assert project.healthy_after_s < HEALTHY_WITHIN_S * project.crowd
    assert {s: len(project.containers(s)) for s in SERVICES} == {
        "nats": 1,
        "coordinator": 2,
        "gateway": 2,
        "worker": 4,
        "proxy": 1,
    }


def test_images_are_small(project: Project) -> None:
    for service in ("coordinator", "gateway", "worker", "proxy"):
        image = project.inspect(project.containers(service)[0])["Image"]
        size_bytes = int(docker("image", "inspect", "--format", "{{.Size}}", image))
        print(f"{service}: {size_bytes / 1e6:.0f} MB")
        assert size_bytes < LARGEST_IMAGE_BYTES, service


def test_containers_may_do_little(project: Project) -> None:
    for service in SERVICES:
        for container in project.containers(service):
            found = project.inspect(container)
            host = found["HostConfig"]
            assert found["Config"]["User"] == "10001:10001", service
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert not host["CapAdd"], service
            assert "no-new-privileges:true" in host["SecurityOpt"], service
            published = host["PortBindings"] or {}
            expected = [{"HostIp": "127.0.0.1", "HostPort": str(project.port)}]
            assert list(published.values()) == ([expected] if service == "proxy" else []), service


def test_the_bus_wants_a_password(project: Project) -> None:
    (nats,) = project.containers("nats")
    command = "sleep 1 | nc 127.0.0.1 4222"
    greeting = docker("exec", nats, "sh", "-c", command)
    assert '"auth_required":true' in greeting
    assert "PONG" not in greeting
    refused = docker(
        "exec", nats, "sh", "-c", r"printf 'CONNECT {}\r\nPING\r\n' | nc -w 2 127.0.0.1 4222"
    )
    assert "Authorization Violation" in refused
    for service in ("gateway", "coordinator", "worker"):
        env = project.inspect(project.containers(service)[0])["Config"]["Env"]
        assert not any("NATS_URL=" in entry for entry in env)


def test_a_worker_cannot_command(project: Project) -> None:
    """The users that `secrets` made have the permissions of their part."""
    (nats,) = project.containers("nats")
    password = docker("exec", nats, "cat", "/etc/rondo/secrets/worker.password").strip()
    connect = f'CONNECT {{"user":"worker","pass":"{password}"}}'
    for subject, refused in (("rondo.v1.inst.x.cmd", True), ("rondo.v1.inst.x.report", False)):
        text = rf"printf '{connect}\r\nPUB {subject} 0\r\n\r\nPING\r\n' | nc -w 2 127.0.0.1 4222"
        answer = docker("exec", nats, "sh", "-c", text)
        assert "PONG" in answer
        assert ("Permissions Violation" in answer) == refused, answer


def test_the_proxy_shows_no_metrics(project: Project) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{project.url}/metrics")


def test_the_openai_client_streams_through_the_proxy(project: Project) -> None:
    client = OpenAI(base_url=f"{project.url}/v1", api_key="none")
    with client:
        chunks = [
            (time.monotonic(), chunk.choices[0].delta.content or "")
            for chunk in client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "hello"}],
                max_tokens=64,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            if chunk.choices
        ]
    assert "".join(text for _, text in chunks)
    assert len(chunks) > 20
    # Emulated decode steps take some 30 ms; a proxy that buffers would hand over all at once.
    assert chunks[-1][0] - chunks[0][0] > 0.5


async def test_prometheus_finds_every_program(project: Project) -> None:
    project.compose("--profile", "monitoring", "up", "--detach", "--wait", "prometheus")
    url = f"http://127.0.0.1:{project.prometheus_port}/api/v1/query"

    def found() -> dict[str, int]:
        with urllib.request.urlopen(f"{url}?query=sum%20by%20(job)%20(up)") as response:
            result = json.load(response)["data"]["result"]
        return {series["metric"]["job"]: int(series["value"][1]) for series in result}

    await eventually(
        lambda: found() == {"gateway": 2, "coordinator": 2, "worker": 4}, "all are scraped"
    )


async def test_scaling_up_and_down_drops_nothing(project: Project) -> None:
    async with Load(project.url) as load:
        await asyncio.to_thread(project.scale, worker=8, gateway=3)
        await eventually(lambda: len(joined(project)) == 8, "eight instances")
        await eventually(lambda: len(_asked(project)) == 3, "the third gateway is asked, too")
        await asyncio.to_thread(project.scale, worker=3, gateway=2)
        await eventually(lambda: len(joined(project)) == 3, "three instances")
        before = load.num_answers
        await eventually(lambda: load.num_answers > before + 10, "answers after that")
    assert load.errors == []
    assert len(project.containers("worker")) == 3
    assert len(project.containers("gateway")) == 2


def _asked(project: Project) -> list[str]:
    """Gateways that have answered a chat."""
    return [
        container
        for container in project.containers("gateway")
        if any(name.startswith("rondo_requests_total{") for name in project.metrics(container))
    ]


def _answering(project: Project) -> list[str]:
    """Gateways with an answer under way."""
    gateways = project.containers("gateway")
    return [gateway for gateway in gateways if project.metrics(gateway)["rondo_live_answers"]]


async def test_a_long_answer_survives_the_end_of_its_gateway(project: Project) -> None:
    async with aiohttp.ClientSession() as session:
        known = await ask(session, project.url, "a long story", max_tokens=300)
        task = asyncio.create_task(ask(session, project.url, "a long story", max_tokens=300))
        await eventually(lambda: len(_answering(project)) == 1, "a gateway answers")
        (old,) = await asyncio.to_thread(_answering, project)
        stopping = asyncio.create_task(asyncio.to_thread(docker, "stop", old))
        await eventually(lambda: _drains(project, old), "it takes nothing new")
        assert (await ask(session, project.url, "another", max_tokens=4)).done
        assert not task.done()
        answer = await task
        assert (answer.text, answer.done) == (known.text, True)
        await stopping
    assert not project.inspect(old)["State"]["Running"]
    await asyncio.to_thread(project.scale, worker=3, gateway=2)


def _drains(project: Project, gateway: str) -> bool:
    """Whether a gateway has closed its door."""
    try:
        project.metrics(gateway)
    except OSError:
        return True
    return False


async def test_a_killed_worker_is_survived_and_comes_back(project: Project) -> None:
    victim = project.containers("worker")[0]
    async with Load(project.url) as load:
        # A SIGKILL by `docker kill` would count as wanted, and not be followed by a restart.
        os.kill(project.inspect(victim)["State"]["Pid"], signal.SIGKILL)
        await eventually(
            lambda: project.inspect(victim)["RestartCount"] >= 1, "docker starts it again"
        )
        await eventually(lambda: victim[:12] in joined(project), "it joins again")
        before = load.num_answers
        await eventually(lambda: load.num_answers > before + 10, "answers after that")
    assert load.errors == []


async def test_a_worker_without_network_is_survived_and_comes_back(project: Project) -> None:
    victim = project.containers("worker")[1]
    network = f"{project.name}_bus"
    async with Load(project.url) as load:
        docker("network", "disconnect", network, victim)
        await eventually(lambda: project.health(victim) != "healthy", "its health tells")
        await eventually(lambda: victim[:12] not in joined(project), "it is dropped", 10.0)
        docker("network", "connect", "--alias", "worker", network, victim)
        await eventually(lambda: victim[:12] in joined(project), "it joins again")
        await eventually(lambda: project.health(victim) == "healthy", "it is healthy again")
    assert load.errors == []
    assert load.num_answers > 0


async def test_the_driver_adds_and_takes_away_containers(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RONDO_PROJECT", "RONDO_PORT"):
        monkeypatch.setenv(name, project.env[name])
    driver = ComposeInstances(ComposeProject(FOLDER), "worker")
    await driver.refresh()
    before = driver.instance_ids
    assert sorted(before) == sorted(c[:12] for c in project.containers("worker"))
    added = await driver.start()
    assert driver.instance_ids == (*before, added)
    await eventually(lambda: added in joined(project), "it serves")
    await driver.stop(before[0])
    assert driver.instance_ids == (*before[1:], added)
    await eventually(lambda: joined(project) == {*before[1:], added}, "the other has left")
    await driver.stop("gone-already")
    with pytest.raises(ComposeFailed, match="no such service"):
        await ComposeInstances(ComposeProject(FOLDER), "nonsense").start()
