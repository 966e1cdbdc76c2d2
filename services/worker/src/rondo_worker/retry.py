"""Runs a step; when it fails, runs it again in parts, to find the requests that it fails for.

A batch may fail because of one request in it, or because it is too large. A failed step has changed
nothing that the same step would not overwrite, so its parts can be run in its place: those that
succeed bring their requests on as the whole step would have, and what fails alone is to blame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rondo.errors import EngineError, InvariantError
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import PlanItem, StepPlan
from rondo.types import Phase, Sampling
from rondo_worker.engines.base import (
    NO_LOGPROBS,
    Engine,
    EngineGone,
    EngineRequest,
    StepLogprobs,
)

log = logging.getLogger("rondo.worker")

#: Parts of one step that may fail before the rest is taken to fail, too. One culprit among 256
#: requests makes 9 parts fail, and an engine that is broken should say so soon.
MAX_FAILED_PARTS = 24

_PROBE = EngineRequest("(probe)", (0,), 1, Sampling(temperature=0.0), ignore_eos=True)


@dataclass(slots=True)
class StepResult:
    """What became of a step: new tokens, and the problem of each request that it failed for.

    `complete`: every request of the step was computed or has a problem.
    """

    tokens: dict[str, int] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    logprobs: StepLogprobs = NO_LOGPROBS
    num_tries: int = 0
    complete: bool = True


def run_step(engine: Engine, plan: StepPlan) -> StepResult:
    """Runs a step, in parts if need be.

    Requests that an engine blames itself are not tried again; the rest of their step, of which
    nothing is known, is left to the next one.

    Raises:
        EngineGone: no other step would succeed either.
        InvariantError: the scheduler has a bug.
    """
    result = StepResult()
    if error := _try(engine, plan, result):
        ids = [item.request_id for item in plan.items]
        blamed = set(error.request_ids)
        if len(ids) > 1 and blamed.issuperset(ids) or not blamed:
            _run_parts(engine, plan, result, error)
        else:
            result.problems |= dict.fromkeys(error.request_ids, error.problem)
            result.complete = blamed.issuperset(ids)
    return result


def run_again(engine: Engine, plan: StepPlan, is_live: Callable[[str], bool]) -> StepResult:
    """Runs a step that has failed once, without the requests that are gone meanwhile, until each of
    the others is computed or has a problem.

    Raises:
        EngineGone, InvariantError: as `run_step`.
    """
    items = plan.items
    whole = StepResult(num_tries=1)
    left = [index for index, item in enumerate(items) if is_live(item.request_id)]
    while left:
        result = run_step(engine, _part_of(plan, items, left))
        whole.tokens |= result.tokens
        whole.problems |= result.problems
        whole.logprobs = whole.logprobs.joined(result.logprobs)
        whole.num_tries += result.num_tries
        if result.complete:
            break
        left = [index for index in left if items[index].request_id not in result.problems]
    return whole


def works(engine: Engine, ledger: KvLedger) -> bool:
    """Whether the engine can still compute anything: one token of a prompt of one token.

    Raises:
        InvariantError: the scheduler has a bug.
    """
    if not ledger.grow(_PROBE.request_id, 1):
        return False  # no block is left to try it with
    item = PlanItem(_PROBE.request_id, 0, 1, ledger.table(_PROBE.request_id))
    result = StepResult()
    try:
        engine.add(_PROBE)
        return _try(engine, StepPlan(Phase.PREFILL, [item]), result) is None
    except EngineError:
        return False
    finally:
        engine.remove(_PROBE.request_id)
        ledger.release(_PROBE.request_id)


def _run_parts(engine: Engine, plan: StepPlan, result: StepResult, error: EngineError) -> None:
    """Runs what failed with `error` in halves, those that fail in halves again, and so on."""
    items = plan.items
    num_failed = 0
    failed = range(len(items))
    parts: list[range] = []
    while True:
        if len(failed) > 1 and num_failed < MAX_FAILED_PARTS:
            middle = len(failed) // 2
            parts += [failed[middle:], failed[:middle]]
        else:
            for index in failed:
                result.problems[items[index].request_id] = error.problem
        if not parts:
            return
        failed = parts.pop()
        if num_failed < MAX_FAILED_PARTS:
            problem = _try(engine, _part_of(plan, items, failed), result)
            if problem is None:
                failed = range(0)
            else:
                num_failed, error = num_failed + 1, problem


def _try(engine: Engine, plan: StepPlan, result: StepResult) -> EngineError | None:
    """Runs a step as it is; its tokens go to `result`."""
    result.num_tries += 1
    try:
        tokens = engine.step(plan)
        brought = engine.take_logprobs()
    except EngineGone:
        raise
    except EngineError as error:
        return error
    except InvariantError:
        raise
    except Exception as error:  # an engine may fail in any way; its requests pay, not the worker
        log.exception("engine_failed")
        return EngineError(f"{type(error).__name__}: {error}")
    result.tokens |= tokens
    result.logprobs = result.logprobs.joined(brought)
    return None


def _part_of(plan: StepPlan, items: Sequence[PlanItem], part: Sequence[int]) -> StepPlan:
    """The step of some of a plan's items, by index."""
    num_chunks = len(plan.chunks)
    chunks = [items[index] for index in part if index < num_chunks]
    decodes = [items[index] for index in part if index >= num_chunks]
    phase = Phase.FUSED if chunks and decodes else Phase.PREFILL if chunks else Phase.DECODE
    context_tokens = sum(item.start for item in decodes)
    return StepPlan(phase, chunks, len(decodes), context_tokens, lambda: decodes)
