"""The pipeline engine: a model split by layers over stage processes, several steps in flight.

The controller (`PipelineEngine`, in the worker's process) owns nothing but the requests' tokens and
the order of steps. Every stage has a slice of the layers and a KV pool of the same number of
blocks, so one block table is valid on all of them. A step goes to every stage as a small control
message; its activations go from stage to stage, asynchronously and in order; the last stage samples
and returns the ids.

    engine = PipelineEngine.load(folder, num_stages=2, num_blocks=..., cores=(0, 1))
    engine.add(request)              # as every engine: before the first step
    ticket = engine.submit(plan)     # a StepPlan; returns at once, 0, 1, 2, ... in order
    done = engine.take(timeout_s)    # StepDone of the oldest step in flight, or None in time
    engine.in_flight                 # steps submitted and not taken
    engine.remove(request_id)
    engine.take_timelines()          # per stage since the last call: [StageSpan(...)]
    engine.close()

`step(plan)` is submit and take with nothing else in flight: the `Engine` contract.

What a scheduler must keep to: a request decodes in at most one step in flight (its next token is
not known before), chunks of one prompt may follow each other in flight; blocks that a step in
flight writes to or reads may be given to another request in a later step, because every stage
computes steps in the order of submission. A plan's lists are read at submit and not kept.
`StepDone.tokens` maps request ids to their new token; `StepDone.error` is set where the step failed
(its requests must then be removed). `EngineGone`, which every call may raise: a stage died, and all
others have been ended. Instants are seconds of CLOCK_MONOTONIC (`time.monotonic()`), the same on
all processes of a host.
"""

from rondo_worker.engines.pipeline.engine import PipelineEngine
from rondo_worker.engines.pipeline.flights import StepDone
from rondo_worker.engines.pipeline.messages import StageSpan

__all__ = ["PipelineEngine", "StageSpan", "StepDone"]
