"""Prometheus metrics of a worker: counted once an engine step, whatever its batch."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rondo.policy.turns import TurnEnd, TurnStart
from rondo.types import KvSpace, Phase, Progress
from rondo_worker.loop import StepRecord

_PHASES = (Phase.PREFILL, Phase.DECODE, Phase.FUSED)
_PROMPT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
_FORWARD_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class WorkerMetrics:
    """Counts what the step loop does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, registry=registry)

        self.stale_commands = counter("rondo_stale_commands", "Commands of an older epoch, ignored")
        self.cancelled = counter("rondo_cancelled_requests", "Requests cancelled while live")
        self._failed = counter("rondo_failed_requests", "Requests ended by an engine error")
        self._computed = counter("rondo_computed_prompt_tokens", "Prompt tokens computed")
        self._background = counter(
            "rondo_background_tokens", "Tokens computed for background requests"
        )
        self._reused = Gauge(
            "rondo_reused_prompt_tokens",
            "Prompt tokens so far that were not computed because their KV was in the pool",
            registry=registry,
        )
        self._space = _Space(registry)
        requests = Gauge(
            "rondo_requests", "Requests on the instance by state", ["state"], registry=registry
        )
        # Bound once: this runs after every step, and the labels are there before the first one.
        self._running, self._waiting, self._paused = map(
            requests.labels, ("running", "waiting", "paused")
        )
        self._steps = _Steps(registry)
        self._turns = _Turns(registry)

    def watch_reuse(self, count: Callable[[], int]) -> None:
        """Reads the number of reused tokens from `count`."""
        self._reused.set_function(count)

    def observe(self, record: StepRecord) -> None:
        """Takes in one round of the step loop."""
        progress = record.progress
        for step in progress.steps:
            self._steps.duration_s[step.phase].observe(step.duration_s)
            self._steps.tokens[step.phase].inc(step.num_tokens)
            self._steps.forward_tokens.observe(step.num_tokens)
            if step.prompt_tokens:
                self._computed.inc(step.prompt_tokens)
            if step.background_tokens:
                self._background.inc(step.background_tokens)
        for event in record.turn_events:
            self._turns.observe(event)
        if record.error:
            self._failed.inc(len(record.error.request_ids))
        self._space.observe(progress)
        self._running.set(progress.num_running)
        self._waiting.set(progress.num_waiting)
        self._paused.set(progress.space.num_paused if progress.space else 0)


class _Space:
    """KV blocks: as they are, and as the instance policy has promised them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        blocks = Gauge("rondo_kv_blocks", "KV blocks by state", ["state"], registry=registry)
        states = ("used", "free", "reserved", "owned", "lent", "borrowed", "kept_back")
        self._gauges = [blocks.labels(state) for state in states]

    def observe(self, progress: Progress) -> None:
        kv = progress.kv
        space = progress.space or KvSpace(owned_blocks=kv.used_blocks)
        values = (
            kv.used_blocks,
            kv.free_blocks,
            kv.reserved_blocks,
            space.owned_blocks,
            space.lent_blocks,
            space.borrowed_blocks,
            space.kept_back_blocks,
        )
        for gauge, value in zip(self._gauges, values, strict=True):
            gauge.set(value)


class _Steps:
    """Engine steps by phase."""

    def __init__(self, registry: CollectorRegistry) -> None:
        duration_s = Histogram(
            "rondo_step_seconds",
            "Engine step time",
            ["phase"],
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        tokens = Counter("rondo_tokens", "Tokens computed, by phase", ["phase"], registry=registry)
        self.forward_tokens = Histogram(
            "rondo_forward_tokens",
            "Tokens computed in one engine step",
            buckets=_FORWARD_BUCKETS,
            registry=registry,
        )
        self.duration_s = {phase: duration_s.labels(phase.value) for phase in _PHASES}
        self.tokens = {phase: tokens.labels(phase.value) for phase in _PHASES}


class _Turns:
    """Prefill turns."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        self._length_s = histogram("rondo_turn_seconds", "Length of prefill turns", _STEP_BUCKETS)
        self._switch_s = histogram(
            "rondo_turn_switch_seconds",
            "Rotation token to the first prefill step of its turn",
            _STEP_BUCKETS,
        )
        self._prompts = histogram(
            "rondo_turn_prompts", "Prompts that were prefilled in a turn", _PROMPT_BUCKETS
        )

    def observe(self, event: TurnStart | TurnEnd) -> None:
        if isinstance(event, TurnEnd):
            self._length_s.observe(event.duration_s)
            self._prompts.observe(event.num_prefilled)
        else:
            self._switch_s.observe(event.waited_s)
