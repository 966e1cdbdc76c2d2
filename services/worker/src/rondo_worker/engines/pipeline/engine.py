"""The pipeline engine's controller: checks plans, hands them to all stages, collects tokens."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from rondo.errors import EngineError
from rondo.policy.plan import StepPlan
from rondo_worker.engines.base import (
    NO_LOGPROBS,
    EngineGone,
    EngineRequest,
    EngineSpec,
    StepLogprobs,
    refuse_embedding,
)
from rondo_worker.engines.grammar import GrammarTable
from rondo_worker.engines.memory import process_peak_bytes
from rondo_worker.engines.pipeline.flights import Flights, StepDone
from rondo_worker.engines.pipeline.messages import (
    Add,
    Ask,
    AskSpans,
    Remove,
    Spans,
    StageSpan,
    State,
    Step,
    StepEnd,
    StepFailed,
    StepItem,
)
from rondo_worker.engines.pipeline.processes import StageProcesses
from rondo_worker.engines.pipeline.startup import Started, start_stages
from rondo_worker.engines.sequences import SequenceTable

#: How long a stage may take to answer what it answers amid its steps.
ANSWER_TIMEOUT_S = 30.0


class PipelineEngine:
    """Dense Llama-like models, cut by layers. Implements `Engine`; built by `load`.

    The arguments of `load` are those of `TorchEngine.load`, and
        num_stages: how many processes share the layers.
        stage_layers: layers of each; by default as even as the head allows (`split`).
        cores: CPU cores of each stage, to which it is pinned; none: wherever the system likes.
        num_threads: torch's CPU threads in each stage; by default one for each of its cores.
    """

    def __init__(self, started: Started) -> None:
        self._spec = started.spec
        self._stages: StageProcesses = started.stages
        self._sequences = SequenceTable(started.spec)
        self._grammars = GrammarTable(
            started.folder, started.spec.vocab_size, started.spec.eos_token_ids
        )
        self._flights = Flights()
        self._ended: deque[StepEnd] = deque()
        self._failures: dict[int, StepFailed] = {}
        self._told: dict[str, int] = {}  # tokens of each request that the stages know
        self._states: dict[int, State] = {}
        self._spans: dict[int, Spans] = {}
        self._num_stages = len(self._stages.pids)
        self._logprobs = NO_LOGPROBS
        self._on_cpu = started.on_cpu
        self._closed = False

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        num_stages: int = 2,
        model_name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        block_size: int = 16,
        num_blocks: int | None = None,
        kv_memory_bytes: int | None = None,
        max_model_len: int | None = None,
        num_threads: int | None = None,
        native: bool = True,
        stage_layers: Sequence[int] = (),
        cores: Sequence[Sequence[int]] = (),
    ) -> PipelineEngine:
        """Starts the stages; see the class.

        Raises:
            ModelError: the folder lacks something or is not supported.
            ConfigError: an argument makes no sense.
            EngineGone: a stage died while it loaded.
        """
        started = start_stages(
            Path(path),
            num_stages=num_stages,
            model_name=model_name,
            device=device,
            dtype=dtype,
            block_size=block_size,
            num_blocks=num_blocks,
            kv_memory_bytes=kv_memory_bytes,
            max_model_len=max_model_len,
            num_threads=num_threads,
            native=native,
            stage_layers=stage_layers,
            cores=cores,
        )
        return cls(started)

    @property
    def spec(self) -> EngineSpec:
        """Limits and sizes."""
        return self._spec

    @property
    def num_stages(self) -> int:
        """Stages of the pipe."""
        return self._num_stages

    @property
    def in_flight(self) -> int:
        """Steps that were submitted and not taken yet."""
        return len(self._flights)

    @property
    def pids(self) -> tuple[int, ...]:
        """The stage processes; none when the engine is closed."""
        return self._stages.pids

    def add(self, request: EngineRequest) -> None:
        """Makes a request known, before its first step."""
        refuse_embedding(request, "pipeline")
        self._sequences.add(request)
        try:
            self._grammars.add(request)  # the last stage does; here only to refuse what it would
            self._grammars.remove(request.request_id)
            self._stages.tell(Add(request))
        except EngineError:
            self._sequences.remove(request.request_id)
            raise
        self._told[request.request_id] = len(request.prompt)

    def remove(self, request_id: str) -> None:
        """Forgets a request; steps in flight still compute it, and its token means nothing."""
        if self._told.pop(request_id, None) is not None:
            self._sequences.remove(request_id)
            with contextlib.suppress(EngineGone):  # the next step says so
                self._stages.tell(Remove(request_id))

    # Steps

    def submit(self, plan: StepPlan) -> int:
        """Sends a step into the pipe, behind those in flight, and returns at once: its ticket.

        Raises:
            EngineError: the plan does not fit what the engine knows; nothing was sent.
            EngineGone: a stage is gone.
        """
        rows = self._sequences.resolve(plan)
        sent = []
        for item, row in zip(plan.items, rows, strict=True):
            drawn = row.tokens[self._told[item.request_id] :]
            self._told[item.request_id] = len(row.tokens)
            blocks = list(item.blocks)
            sent.append(StepItem(item.request_id, item.start, item.num_tokens, blocks, drawn))
        number = self._flights.begin(plan, rows)
        self._stages.tell(Step(number, plan.phase, len(plan.chunks), sent))
        return number

    def take(self, timeout_s: float | None = None) -> StepDone | None:
        """The oldest step in flight, when it is through; None: not within `timeout_s`.

        Raises:
            EngineError: nothing is in flight.
            EngineGone: a stage is gone, and all steps in flight with it.
        """
        if not self._flights:
            raise EngineError("no step is in flight")
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended:
            left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            self._hear(left_s)
            if left_s == 0.0 and not self._ended:
                return None
        return self._flights.land(self._ended.popleft(), self._failure_of)

    def step(self, plan: StepPlan) -> dict[str, int]:
        """Executes the plan; see `Engine.step`."""
        if self._flights:
            raise EngineError("steps are in flight: take them first")
        self.submit(plan)
        done = self.take()
        assert done is not None, "waits without limit"
        self._logprobs = done.logprobs
        if done.error:
            raise done.error
        return done.tokens

    def take_logprobs(self) -> StepLogprobs:
        """What the last `step` brought; see `Engine.take_logprobs`."""
        taken, self._logprobs = self._logprobs, NO_LOGPROBS
        return taken

    # Looking in

    def peak_bytes(self) -> int:
        """Over all stages, on a CPU with this process; see `Engine.peak_bytes`."""
        if self._closed:
            return 0
        self._ask(Ask(), self._states)
        own = process_peak_bytes() if self._on_cpu else 0
        return own + sum(state.peak_bytes for state in self._states.values())

    def take_timelines(self) -> list[list[StageSpan]]:
        """Of each stage, the steps that it computed since the last call, in order; waits for those
        in flight. The first call begins the timeline: who never asks for it has none.

        Raises:
            EngineError: a stage has not answered in time.
            EngineGone: a stage is gone.
        """
        self._ask(AskSpans(), self._spans)
        if len(self._spans) < self.num_stages:
            raise EngineError(f"a stage has not told its timeline within {ANSWER_TIMEOUT_S:g} s")
        told, self._spans = self._spans, {}
        return [told[stage].spans for stage in range(self.num_stages)]

    def close(self) -> None:
        """Ends all stages; the engine cannot step any more."""
        self._closed = True
        self._sequences.clear()
        self._flights.clear()
        self._ended.clear()
        self._told.clear()
        self._stages.end()

    def _ask(self, question: Ask | AskSpans, answers: dict[int, State] | dict[int, Spans]) -> None:
        """Has all stages answer anew; after `ANSWER_TIMEOUT_S` some may be missing."""
        answers.clear()
        self._stages.tell(question)
        end_s = time.monotonic() + ANSWER_TIMEOUT_S
        while len(answers) < self.num_stages and (left_s := end_s - time.monotonic()) > 0:
            self._hear(left_s)

    def _failure_of(self, number: int) -> StepFailed:
        """What a stage said about a step; it said so before the step came out."""
        end_s = time.monotonic() + ANSWER_TIMEOUT_S
        while number not in self._failures and (left_s := end_s - time.monotonic()) > 0:
            self._hear(left_s)
        return self._failures.pop(number, StepFailed(number, "a stage failed"))

    def _hear(self, timeout_s: float | None) -> None:
        """Takes in what stages say; returns when one of them said something, or in time."""
        for stage, report in self._stages.hear(timeout_s):
            if isinstance(report, StepEnd):
                self._ended.append(report)
            elif isinstance(report, StepFailed):
                self._failures[report.number] = report
            elif isinstance(report, State):
                self._states[stage] = report
            elif isinstance(report, Spans):
                self._spans[stage] = report
