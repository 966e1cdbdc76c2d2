"""`rondo up`: starts a whole cluster on this machine and keeps it running."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from rondo.bus.nats import NatsBus
from rondo.bus.subjects import check_id
from rondo.errors import BusUnavailable, ConfigError
from rondo.local import run_dir as rd
from rondo.local.ask import ask
from rondo.local.children import Child
from rondo.local.instances import LocalInstances
from rondo.local.model_folder import find_model
from rondo.local.nats_server import NatsServer
from rondo.scaling.agent import ScalingAgent

READY_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 8.0
BUS_RESTART_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `rondo up`."""

    engine: str
    workers: int
    model: str | None
    model_name: str | None
    port: int
    run_dir: Path
    profile: str | None
    question: str | None
    scale: tuple[int, int] | None = None


class LocalCluster:
    """nats-server (unless NATS_URL names one), a coordinator, a gateway and workers."""

    def __init__(self, options: UpOptions) -> None:
        self._options = options
        self._model = find_model(options.model, weights=options.engine != "emulated")
        self._name = options.model_name or self._model.name
        self._children: list[Child] = []  # all but the workers
        self._workers = LocalInstances(self._worker, self._instance_id)
        self._nats: NatsServer | None = None
        self._scaling: tuple[NatsBus, ScalingAgent] | None = None
        self._bus_keeper: asyncio.Task[None] | None = None
        self._started_s = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Starts everything, waits for `stop`, and stops everything."""
        options = self._options
        options.run_dir.mkdir(parents=True, exist_ok=True)
        _refuse_second(options.run_dir)
        try:
            gateway = await self._start(stop)
            if gateway is None:
                return
            api_url = f"http://127.0.0.1:{gateway.port}"
            state = rd.ClusterState(
                pid=os.getpid(), api_url=api_url, nats_url=self._nats_url, model=self._name
            )
            rd.write_state(options.run_dir, state)
            for child in (*self._children, *self._workers.children):
                child.keep()
            await self._follow_load()
            if self._nats:
                self._bus_keeper = asyncio.create_task(self._keep_bus(self._nats))
            print(f"ready {api_url}", flush=True)
            if options.question:
                await ask(api_url, self._name, options.question)
                print(_hint(api_url, self._name), flush=True)
            await stop.wait()
            print("stopping", flush=True)
        finally:
            await self._stop()
            rd.clear_state(options.run_dir)  # what `rondo down` waits for

    async def _start(self, stop: asyncio.Event) -> Child | None:
        """The ready gateway, or None when `stop` came first."""
        work = asyncio.create_task(self._start_all())
        waiter = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, waiter}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            for task in (work, waiter):
                task.cancel()
            await asyncio.gather(work, waiter, return_exceptions=True)

    async def _start_all(self) -> Child:
        await self._start_bus()
        options = self._options
        self._child("coordinator", "rondo_coordinator", self._coordinator_env())
        gateway_env = {
            "RONDO_HTTP_PORT": str(options.port),
            "RONDO_MODELS": f"{self._name}={self._model}",
        }
        gateway = self._child("gateway", "rondo_gateway", gateway_env)
        for _ in range(options.workers):
            self._workers.add()
        children = (*self._children, *self._workers.children)
        for child in children:
            await child.start()
        await self._wait_ready(children)
        return gateway

    async def _wait_ready(self, children: Sequence[Child]) -> None:
        """Returns when all are ready; ends early when one of them does."""
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def wait(child: Child) -> None:
                await child.wait_ready(session)
                self._progress(f"{child.name} ready (pid {child.pid})")

            tasks = [asyncio.create_task(wait(child)) for child in children]
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await asyncio.gather(*tasks)
            except TimeoutError:
                raise ConfigError("rondo up", f"not ready in {READY_TIMEOUT_S:g} s") from None
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_bus(self) -> None:
        self._nats_url = os.environ.get("NATS_URL", "")
        if self._nats_url:
            self._progress(f"bus: using {self._nats_url}")
            return
        self._nats = NatsServer(self._options.run_dir / "nats")
        await self._nats.start()
        self._nats_url = self._nats.url
        self._progress(f"nats-server ready at {self._nats_url} (pid {self._nats.pid})")

    async def _follow_load(self) -> None:
        """Where the number of workers follows the load, this starts and ends them."""
        if self._options.scale is None:
            return
        bus = NatsBus(self._nats_url, name="rondo-up")
        await bus.connect()
        agent = ScalingAgent(bus, self._name, self._workers, self._options.scale[1] + 1)
        self._scaling = bus, agent
        await agent.start()

    def _new_child(self, name: str, module: str, env: dict[str, str]) -> Child:
        base = {"NATS_URL": self._nats_url, "RONDO_HTTP_HOST": "127.0.0.1"}
        return Child(name, module, {**base, **env}, self._options.run_dir)

    def _child(self, name: str, module: str, env: dict[str, str]) -> Child:
        child = self._new_child(name, module, env)
        self._children.append(child)
        return child

    def _worker(self, index: int) -> Child:
        return self._new_child(f"worker-{index}", "rondo_worker", self._worker_env(index))

    def _instance_id(self, index: int) -> str:
        return check_id(f"{self._model.name[:40]}-{index}".replace(".", "-"))

    def _coordinator_env(self) -> dict[str, str]:
        env = {"RONDO_HTTP_PORT": "0"}
        if self._options.scale:
            least, most = self._options.scale
            scaling = os.environ.get("RONDO_SCALING", "on")
            env |= {
                "RONDO_SCALING": scaling,
                "RONDO_MIN_INSTANCES": str(least),
                "RONDO_MAX_INSTANCES": str(most),
            }
        return env

    def _worker_env(self, index: int) -> dict[str, str]:
        options = self._options
        threads = max(1, (os.cpu_count() or 1) // options.workers)
        env = {
            "RONDO_HTTP_PORT": "0",
            "RONDO_INSTANCE_ID": self._instance_id(index),
            "RONDO_MODEL": str(self._model),
            "RONDO_MODEL_NAME": self._name,
            "RONDO_ENGINE": options.engine,
        }
        if options.engine != "emulated":
            env["RONDO_THREADS"] = os.environ.get("RONDO_THREADS", str(threads))
            # Threads of several workers that spin while they wait take the cores from each other.
            env["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "passive")
        if options.profile:
            env["RONDO_PROFILE"] = options.profile
        return env

    async def _keep_bus(self, server: NatsServer) -> None:
        """Starts the bus again when it ends; its store keeps what was in it."""
        while True:
            code = await server.wait()
            self._progress(f"nats-server ended with {code}; it is started again")
            try:
                await server.start()
            except BusUnavailable as error:
                self._progress(f"nats-server: {error}")
                await asyncio.sleep(BUS_RESTART_PAUSE_S)

    async def _stop(self) -> None:
        """Clients first, the bus last."""
        if self._bus_keeper:
            self._bus_keeper.cancel()
            await asyncio.gather(self._bus_keeper, return_exceptions=True)
        if self._scaling:
            bus, agent = self._scaling
            await agent.stop()
            await bus.close()
        gateways = [child for child in self._children if child.name == "gateway"]
        others = [child for child in self._children if child.name != "gateway"]
        others += self._workers.children
        for group in (gateways, others):
            await asyncio.gather(*(child.stop(STOP_TIMEOUT_S) for child in group))
        if self._nats:
            await self._nats.stop()

    def _progress(self, text: str) -> None:
        spent_s = time.monotonic() - self._started_s
        print(f"[{spent_s:5.1f} s] {text}", file=sys.stderr, flush=True)


def _refuse_second(run_dir: Path) -> None:
    try:
        state = rd.read_state(run_dir)
    except ConfigError:
        return
    raise ConfigError("--run-dir", f"a cluster already runs from {run_dir} at {state.api_url}")


def _hint(api_url: str, model: str) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return (
        f"\nThe API is at {api_url}/v1 - try:\n"
        f"  curl {api_url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n"
        "Ctrl-C stops the cluster."
    )
