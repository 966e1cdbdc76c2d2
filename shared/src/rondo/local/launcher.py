"""`rondo up`: starts a whole cluster on this machine and keeps it running."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from rondo.bus.nats import NatsBus
from rondo.bus.permissions import OPERATOR
from rondo.bus.tasks import end_task
from rondo.bus.tls import CA, CERT, KEY, TlsFiles
from rondo.bus.url import parse_servers, without_credentials
from rondo.errors import BusUnavailable, ConfigError
from rondo.local import run_dir as rd
from rondo.local.ask import ask
from rondo.local.children import Child
from rondo.local.control import (
    ControlServer,
    Listing,
    ListPrograms,
    Program,
    Progress,
    Reply,
    Request,
    Restart,
)
from rondo.local.instances import LocalInstances
from rondo.local.model_folder import find_model, model_name
from rondo.local.nats_server import NatsServer
from rondo.local.programs import HOST, Programs, UpOptions, listen
from rondo.local.rolling import choose, restart
from rondo.local.status import connect
from rondo.perf.profile import load_profile
from rondo.scaling.agent import ScalingAgent

STOP_TIMEOUT_S = 8.0
#: Every address of this machine.
ANY_HOST = "0.0.0.0"
BUS_RESTART_PAUSE_S = 1.0


class LocalCluster:
    """nats-server (unless NATS_URL names one), coordinators, gateways and workers."""

    def __init__(self, options: UpOptions) -> None:
        self._options = options
        self._model = find_model(options.model, weights=options.engine != "emulated")
        self._name = options.model_name or model_name(options.model)
        _check_profile(options.profile)
        self._fixed: list[Child] = []  # all but the workers
        self._workers: LocalInstances | None = None
        self._control = ControlServer(options.run_dir, self._obey)
        self._restarting = asyncio.Lock()
        self._nats: NatsServer | None = None
        self._scaling: tuple[NatsBus, ScalingAgent] | None = None
        self._bus_keeper: asyncio.Task[None] | None = None
        self._started_s = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Starts everything, waits for `stop`, and stops everything."""
        options = self._options
        options.run_dir.mkdir(parents=True, exist_ok=True)
        _refuse_second(options.run_dir)
        listener = listen(options.host, options.port)
        try:
            if not await self._start(listener, stop):
                return
            host, port = listener.getsockname()
            api_url = f"http://{HOST if host == ANY_HOST else host}:{port}"
            state = rd.ClusterState(
                pid=os.getpid(),
                began=rd.began(os.getpid()),
                api_url=api_url,
                nats_url=self._nats_url,
                model=self._name,
            )
            rd.write_state(options.run_dir, state)
            for child in self._children():
                child.keep()
            await self._control.start()
            await self._follow_load()
            if self._nats:
                self._bus_keeper = asyncio.create_task(self._keep_bus(self._nats))
            print(f"ready {api_url}\nconsole {api_url}/console/", flush=True)
            if options.question:
                await ask(api_url, self._name, options.question)
                print(_hint(api_url, self._name), flush=True)
            await stop.wait()
            print("stopping", flush=True)
        finally:
            await self._stop()
            listener.close()
            rd.clear_state(options.run_dir)  # what `rondo down` waits for

    async def _start(self, listener: socket.socket, stop: asyncio.Event) -> bool:
        """Whether everything is ready; False: `stop` came first."""
        work = asyncio.create_task(self._start_all(listener))
        waiter = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, waiter}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            return work.done()
        finally:
            for task in (work, waiter):
                task.cancel()
            await asyncio.gather(work, waiter, return_exceptions=True)

    async def _start_all(self, listener: socket.socket) -> None:
        await self._start_bus()
        programs = Programs(self._options, self._model, self._name, self._bus_url, listener)
        self._fixed = programs.fixed()
        self._workers = LocalInstances(programs.worker, programs.instance_id)
        for _ in range(self._options.workers):
            self._workers.add()
        children = self._children()
        for child in children:
            await child.start()
        await self._wait_ready(children)

    def _children(self) -> list[Child]:
        """All programs, in the order in which they are restarted."""
        return [*self._fixed, *(self._workers.children if self._workers else ())]

    async def _wait_ready(self, children: Sequence[Child]) -> None:
        """Returns when all are ready; ends early when one of them does."""
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def wait(child: Child) -> None:
                await child.wait_ready(session)
                self._progress(f"{child.name} ready (pid {child.pid})")

            tasks = [asyncio.create_task(wait(child)) for child in children]
            try:
                async with asyncio.timeout(self._options.ready_timeout_s):
                    await asyncio.gather(*tasks)
            except TimeoutError:
                late = "; ".join(f"{one.name}: {one.problem}" for one in children if not one.ready)
                raise ConfigError("--ready-timeout", f"is over. {late}") from None
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_bus(self) -> None:
        self._nats_url = os.environ.get("NATS_URL", "")
        if self._nats_url:
            shown = ",".join(map(without_credentials, parse_servers(self._nats_url)))
            self._progress(f"bus: using {shown}")
            await (await connect(self._nats_url)).close()  # or nobody would say why nothing starts
            return
        if TlsFiles.from_env(os.environ):
            raise ConfigError(f"{CA}, {CERT}, {KEY}", "NATS_URL is not set; our own bus has no TLS")
        demo = os.environ.get("RONDO_DEMO", "").lower() in ("1", "true")
        self._nats = NatsServer(self._options.run_dir / "nats", demo=demo)
        self._nats.url_of(OPERATOR)  # nobody finds it open, not even before it has users
        await self._nats.start()
        self._nats_url = self._nats.url_of(OPERATOR)
        self._progress(f"nats-server ready at {self._nats.url} (pid {self._nats.pid})")

    def _bus_url(self, user: str) -> str:
        """NATS_URL of a program; on a bus that is not ours all have the same."""
        return self._nats.url_of(user) if self._nats else self._nats_url

    async def _follow_load(self) -> None:
        """Where the number of workers follows the load, this starts and ends them."""
        if self._options.scale is None or self._workers is None:
            return
        bus = await connect(self._nats_url)
        agent = ScalingAgent(bus, self._name, self._workers, self._options.scale[1] + 1)
        self._scaling = bus, agent
        await agent.start()

    async def _obey(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """A command of another `rondo`."""
        children = self._children()
        match request:
            case ListPrograms():
                reply(Listing(tuple(_program(child) for child in children)))
            case Restart(what=what):
                chosen = choose(children, what)
                if self._restarting.locked():
                    raise ConfigError("restart", "another restart is underway")
                async with self._restarting:
                    await restart(chosen, lambda text: self._step(text, reply))

    def _step(self, text: str, reply: Callable[[Reply], None]) -> None:
        self._progress(text)
        reply(Progress(text))

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
        await self._control.stop()
        await end_task(self._bus_keeper)
        if self._scaling:
            bus, agent = self._scaling
            await agent.stop()
            await bus.close()
        children = self._children()
        gateways = [child for child in children if child.kind == "gateway"]
        others = [child for child in children if child.kind != "gateway"]
        for group in (gateways, others):
            await asyncio.gather(*(child.stop(STOP_TIMEOUT_S) for child in group))
        if self._nats:
            await self._nats.stop()

    def _progress(self, text: str) -> None:
        spent_s = time.monotonic() - self._started_s
        print(f"[{spent_s:5.1f} s] {text}", file=sys.stderr, flush=True)


def _program(child: Child) -> Program:
    return Program(
        name=child.name, kind=child.kind, pid=child.pid, port=child.port, ready=child.ready
    )


def _check_profile(profile: str | None) -> None:
    """Says what is wrong with it before anything is started."""
    try:
        if profile:
            load_profile(profile)
    except ConfigError as error:
        raise ConfigError("--profile", error.problem) from error


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
