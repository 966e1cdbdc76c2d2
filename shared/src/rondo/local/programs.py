"""The programs of a local cluster, and the settings that each gets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rondo.bus.permissions import COORDINATOR, GATEWAY, WORKER, user_of
from rondo.bus.subjects import macro_id_of
from rondo.local.children import Child
from rondo.local.devices import VISIBLE, cuda_devices, devices_needed, devices_of
from rondo.service.sockets import bound

#: Connections that wait for a gateway; the kernel may allow fewer.
BACKLOG = 2048
HOST = "127.0.0.1"
READY_TIMEOUT_S = 300


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
    coordinators: int = 2
    gateways: int = 1
    host: str = HOST
    ready_timeout_s: float = READY_TIMEOUT_S


def listen(host: str, port: int) -> socket.socket:
    """The socket of the API. The launcher holds it, so connections wait while gateways change.

    Raises:
        ConfigError: the port is taken, or the address is not ours.
    """
    return bound(host, port, "--port" if host == HOST else "--host", BACKLOG)


class Programs:
    """Makes the cluster's children.

    Args:
        model: its folder; `model_name` is what clients call it.
        bus_url: NATS_URL of a user of the bus.
        listener: see `listen`.
    """

    def __init__(
        self,
        options: UpOptions,
        model: Path,
        model_name: str,
        bus_url: Callable[[str], str],
        listener: socket.socket,
    ) -> None:
        self._options = options
        self._run_dir = options.run_dir
        self._model = model
        self._model_name = model_name
        self._listener = listener
        self._bus_url = bus_url
        self._devices_needed = devices_needed(options.engine, os.environ)
        self._devices = cuda_devices(os.environ) if self._devices_needed else []

    def fixed(self) -> list[Child]:
        """All but the workers, in the order in which they are started, and restarted."""
        options = self._options
        return [
            *(self._coordinator(index) for index in range(options.coordinators)),
            *(self._gateway(index) for index in range(options.gateways)),
        ]

    def _coordinator(self, index: int) -> Child:
        count = self._options.coordinators
        env = {**self._base(COORDINATOR), **_own_id("RONDO_COORDINATOR_ID", index, count)}
        if self._options.scale:
            least, most = self._options.scale
            env["RONDO_SCALING"] = os.environ.get("RONDO_SCALING", "on")
            env["RONDO_MIN_INSTANCES"] = str(least)
            env["RONDO_MAX_INSTANCES"] = str(most)
        return Child("coordinator", _numbered("coordinator", index, count), env, self._run_dir)

    def _gateway(self, index: int) -> Child:
        count, descriptor = self._options.gateways, self._listener.fileno()
        env = {
            **self._base(GATEWAY),
            **_own_id("RONDO_GATEWAY_ID", index, count),
            "RONDO_HTTP_FD": str(descriptor),
            "RONDO_MODELS": f"{self._model_name}={self._model}",
        }
        name = _numbered("gateway", index, count)
        return Child("gateway", name, env, self._run_dir, fds=[descriptor])

    def instance_id(self, index: int) -> str:
        """What the instance of a worker is called."""
        return f"{macro_id_of(self._model_name)[:40]}-{index}"

    def worker(self, index: int) -> Child:
        """One worker, not started."""
        options = self._options
        instance_id = self.instance_id(index)
        threads = max(1, (os.cpu_count() or 1) // options.workers)
        env = {
            **self._base(WORKER, instance_id),
            "RONDO_INSTANCE_ID": instance_id,
            "RONDO_MODEL": str(self._model),
            "RONDO_MODEL_NAME": self._model_name,
            "RONDO_ENGINE": options.engine,
        }
        if options.engine != "emulated":
            env["RONDO_THREADS"] = os.environ.get("RONDO_THREADS", str(threads))
            # Threads of several workers that spin while they wait take the cores from each other.
            env["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "passive")
        if own := devices_of(index, self._devices, self._devices_needed):
            env[VISIBLE] = own
        if options.profile:
            env["RONDO_PROFILE"] = options.profile
        # Its instance id, and its memory, are free only when it has ended.
        return Child("worker", f"worker-{index}", env, self._run_dir, can_overlap=False)

    def _base(self, role: str, own_id: str = "") -> dict[str, str]:
        nats_url = self._bus_url(user_of(role, own_id))
        return {"NATS_URL": nats_url, "RONDO_HTTP_HOST": HOST, "RONDO_HTTP_PORT": "0"}


def _numbered(kind: str, index: int, count: int) -> str:
    return kind if count == 1 else f"{kind}-{index}"


def _own_id(variable: str, index: int, count: int) -> dict[str, str]:
    """An id that the user chose must not be that of several."""
    chosen = os.environ.get(variable)
    return {variable: _numbered(chosen, index, count)} if chosen else {}
