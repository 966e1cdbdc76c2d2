"""Activations between neighbouring stages, in the order of steps, by `torch.distributed`.

What is sent is the next stage's input [rows, hidden] with one row more, of which two numbers say
whether all is well so far and which step this is. gloo moves it in threads of its own; each receive
is posted as soon as its step is known, so activations come in while the step before is computed.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

#: No step takes longer; a neighbour that dies is noticed at once.
TIMEOUT = timedelta(hours=1)
#: Step numbers travel modulo this: every type of activations holds them exactly.
NUMBERS = 128
#: Buffers that are kept while gloo may still read them.
KEPT_SENDS = 4


@dataclass(slots=True)
class Packet:
    """A buffer [rows + 1, hidden]: `rows` are the activations, the last row is about them."""

    buffer: torch.Tensor
    ok: bool = True

    @property
    def rows(self) -> torch.Tensor:
        """The activations [rows, hidden], in place."""
        return self.buffer[:-1]


@dataclass(slots=True)
class Incoming:
    """A step's activations on their way here."""

    number: int
    buffer: torch.Tensor
    work: dist.Work | None


class Link:
    """A stage's way to the ones before and behind it.

    Args:
        stage, num_stages: its place. backend: "gloo" or "nccl". rendezvous: a file that all stages
        of the engine name. hidden_size, dtype, device: of activations.
    """

    def __init__(
        self,
        stage: int,
        num_stages: int,
        backend: str,
        rendezvous: str,
        *,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._stage = stage
        self._last = num_stages - 1
        self._width = hidden_size
        self._dtype = dtype
        self._device = device
        self._ahead = backend == "gloo"
        # gloo reads and writes the host's memory.
        self._carrier = torch.device("cpu") if self._ahead else device
        self._sent: deque[tuple[dist.Work, torch.Tensor]] = deque()
        if num_stages > 1:
            # All stages are on this host: names and interfaces of networks do not matter.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            dist.init_process_group(
                backend,
                init_method=f"file://{rendezvous}",
                rank=stage,
                world_size=num_stages,
                timeout=TIMEOUT,
            )

    def expect(self, number: int, num_rows: int) -> Incoming | None:
        """Announces a step: its activations may come from now on; None on the first stage. One
        thread announces all steps, in their order."""
        if self._stage == 0:
            return None
        shape = (num_rows + 1, self._width)
        buffer = torch.empty(shape, dtype=self._dtype, device=self._carrier)
        work = dist.irecv(buffer, src=self._stage - 1) if self._ahead else None
        return Incoming(number, buffer, work)

    def receive(self, incoming: Incoming) -> Packet:
        """Waits for an announced step's activations.

        Raises:
            RuntimeError: the stage before is gone.
        """
        work = incoming.work or dist.irecv(incoming.buffer, src=self._stage - 1)
        if work is not None:
            work.wait()
        buffer = incoming.buffer.to(self._device)
        ok, number = buffer[-1, :2].tolist()
        if number != incoming.number % NUMBERS:
            raise RuntimeError(f"activations of step {number} came for step {incoming.number}")
        return Packet(buffer, bool(ok))

    def packet(self, num_rows: int) -> Packet:
        """An empty one, for a step that begins here."""
        shape = (num_rows + 1, self._width)
        return Packet(torch.empty(shape, dtype=self._dtype, device=self._device))

    def send(self, number: int, packet: Packet) -> None:
        """Sends a step on, whatever became of it; returns at once. Nothing on the last stage."""
        if self._stage == self._last:
            return
        packet.buffer[-1, :2] = torch.tensor([float(packet.ok), float(number % NUMBERS)])
        carried = packet.buffer.to(self._carrier)
        work = dist.isend(carried, dst=self._stage + 1)
        if work is not None:
            self._sent.append((work, carried))
        if len(self._sent) > KEPT_SENDS:
            # It has long arrived: its receiver posted it when the step was announced.
            self._sent.popleft()[0].wait()
