"""A stage process: takes commands from the controller, computes its part, passes it on.

One thread reads commands, so that the controller never waits to write and activations are announced
early; the main thread does everything else, in order. The process ends with its controller.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from multiprocessing.connection import Connection

import torch

from rondo.errors import ConfigError, EngineError, ModelError
from rondo_worker.engines.base import UnsupportedRequest
from rondo_worker.engines.memory import process_peak_bytes
from rondo_worker.engines.pipeline.compute import Prepared, StageCompute
from rondo_worker.engines.pipeline.link import Incoming, Link, Packet
from rondo_worker.engines.pipeline.messages import (
    Add,
    Ask,
    AskSpans,
    Begin,
    Loaded,
    LoadFailed,
    Ready,
    Remove,
    Report,
    Spans,
    StageOptions,
    StageSpan,
    State,
    Step,
    StepEnd,
    StepFailed,
    decode_command,
    decode_options,
    encode,
)
from rondo_worker.engines.torch.kv_pool import free_bytes
from rondo_worker.engines.torch.options import set_threads, use_device

log = logging.getLogger("rondo.worker.pipeline")

#: Spans that wait to be asked for again; older ones are dropped.
MAX_SPANS = 1 << 20


class Stage:
    """The stage's loop, its reading thread and its timeline."""

    def __init__(self, compute: StageCompute, link: Link, controller: Connection) -> None:
        self._compute = compute
        self._link = link
        self._controller = controller
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[tuple[Add | Remove | Step | AskSpans, Incoming | None]]
        self._inbox = queue.SimpleQueue()
        self._spans: deque[StageSpan] | None = None  # nobody has asked for a timeline

    def run(self) -> None:
        """Serves until the process is ended."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()
        with torch.inference_mode():
            while True:
                command, incoming = self._inbox.get()
                if isinstance(command, Step):
                    self._step(command, incoming)
                elif isinstance(command, Add):
                    self._compute.add(command.request)
                elif isinstance(command, Remove):
                    self._compute.remove(command.request_id)
                else:
                    self._tell_spans()

    def _read(self) -> None:
        try:
            while True:
                command = decode_command(self._controller.recv_bytes())
                if isinstance(command, Ask):
                    self._tell_state()
                elif isinstance(command, Step):
                    self._inbox.put((command, self._link.expect(command.number, command.num_rows)))
                elif not isinstance(command, Begin):
                    self._inbox.put((command, None))
        except (EOFError, OSError):
            os._exit(0)  # the controller is gone or closed us: whatever is computed is nobody's
        except Exception:
            log.exception("stage_failed")
            os._exit(1)

    def _step(self, step: Step, incoming: Incoming | None) -> None:
        prepared = self._compute.prepare(step)
        packet = self._receive(step, incoming)
        begin_s, cpu_s = time.monotonic(), time.thread_time()
        end = StepEnd(step.number, ok=False)
        if packet.ok:
            end = self._compute_part(step, prepared, packet)
        self._link.send(step.number, packet)
        if self._compute.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # for the timeline
        if self._spans is not None:
            end_s, busy_s = time.monotonic(), time.thread_time() - cpu_s
            self._spans.append(StageSpan(step.number, step.phase, begin_s, end_s, busy_s))
        if self._compute.is_last:
            self._tell(end)

    def _receive(self, step: Step, incoming: Incoming | None) -> Packet:
        if incoming is None:
            return self._link.packet(step.num_rows)
        return self._link.receive(incoming)

    def _compute_part(self, step: Step, prepared: Prepared, packet: Packet) -> StepEnd:
        """The stage's part; where it fails, the controller hears why, and the packet says so."""
        try:
            tokens, logprobs = self._compute.compute(prepared, packet)
        except EngineError as error:
            packet.ok = False
            param = error.param if isinstance(error, UnsupportedRequest) else ""
            self._tell(StepFailed(step.number, error.problem, error.request_ids, param))
            return StepEnd(step.number, ok=False)
        return StepEnd(step.number, True, tokens, logprobs)

    def _tell_state(self) -> None:
        """By the thread that reads, whatever the other one computes."""
        device = self._compute.device
        peak = process_peak_bytes()
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
        self._tell(State(peak))

    def _tell_spans(self) -> None:
        """By the thread that computes: what was sent before is in it, whole."""
        spans = list(self._spans or ())
        self._spans = deque(maxlen=MAX_SPANS)
        self._tell(Spans(spans))

    def _tell(self, report: Report) -> None:
        with self._sending:
            self._controller.send_bytes(encode(report))


def run_stage(frame: bytes, controller: Connection) -> None:
    """The process's main function; `frame` has its `StageOptions`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the controller's business
    options = decode_options(frame)
    if options.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, options.cores)
    try:
        stage = _start(options, controller)
    except ConfigError as error:
        model = isinstance(error, ModelError)
        controller.send_bytes(encode(LoadFailed(error.setting, error.problem, model)))
        return
    except (EOFError, OSError):
        return  # the controller went away meanwhile
    try:
        stage.run()
    except OSError:
        os._exit(0)  # as above
    except Exception:
        # A neighbour that died is one case. Nothing is left to do, and gloo's threads do not end.
        log.exception("stage_failed")
        os._exit(1)


def _start(options: StageOptions, controller: Connection) -> Stage:
    """Loads, waits for the others, and reaches them."""
    use_device(torch.device(options.device))
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    compute = StageCompute(options)
    set_threads(options.num_threads, compute.config, compute.device)
    controller.send_bytes(encode(Loaded(compute.weight_bytes, free_bytes(compute.device))))
    begin = decode_command(controller.recv_bytes())
    if not isinstance(begin, Begin):
        raise EOFError
    kv_bytes = compute.take_pool(begin.num_blocks)
    link = Link(
        options.stage,
        options.num_stages,
        options.backend,
        options.rendezvous,
        hidden_size=compute.config.hidden_size,
        dtype=compute.residual_dtype,
        device=compute.device,
    )
    controller.send_bytes(encode(Ready(kv_bytes)))
    return Stage(compute, link, controller)
