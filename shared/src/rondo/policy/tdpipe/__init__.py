"""Schedulers of one pipeline of P stages, for offline throughput: TD-Pipe and its rivals.

TD-Pipe (arXiv 2506.10470) keeps prefill and decode apart in time, so that the steps that follow one
another through the pipe are alike and leave no bubbles. Everything here is pure: the simulator and
the pipeline engine drive the same objects, in the same way:

    scheduler = make_scheduler("tdpipe", setup)        # names: SCHEDULER_NAMES
    refused = scheduler.add(job)                       # at any time; a text: it can never run here
    while scheduler.has_work:
        while (step := scheduler.next_step(now_s)) is not None:
            ...                                        # hand step.plan to the first stage
        ...                                            # wait for the oldest step's tokens
        outcome = scheduler.on_step_done(step, now_s, stopped)

`next_step` plans the step that enters the pipe next. None: there is none before a step comes back
or a request is added; the scheduler bounds by itself how many are on their way (`num_in_flight`).
Steps pass every stage in the order in which they were planned, and come back in that order.
`step.plan` is a `StepPlan` as engines get it: prompt chunks and one token each for the sequences
that decode. Its block tables are live views that do not change until the step is done. A chunk may
follow another chunk of the same prompt that is still in the pipe.

`on_step_done` is told which requests ended by their token (`stopped`); those that reached
`max_tokens` it finds itself. The outcome's `prefilled` have their first token with this step, its
`finished` are over and own nothing any more. A preempted request is prefilled again, its answer so
far included: its chunks then cover prompt plus answer (`Job.known`), as in `InstanceScheduler`.

`cancel` may come at any time; a request in the pipe keeps its blocks until its step is back, and
its token is then to be ignored: `has(request_id)` is False from the cancel on. `Job.tail` stays
None, since the scheduler does not see tokens.

The four parts of TD-Pipe are a module each, with a switch in `TdPipeSettings`: `forecast` (greedy
prefill by simulated KV use), `remaining` (predicted lengths), `stealing` (balanced batches),
`intensity` (the way back to prefill). `phases` puts them together.

In a worker a scheduler runs inside a `PipeInstance`, which takes grants and tokens in and reports
as every instance does.
"""

from rondo.policy.tdpipe.base import PipeScheduler, PipeSetup, PipeStep
from rondo.policy.tdpipe.catalog import SCHEDULER_NAMES, make_scheduler
from rondo.policy.tdpipe.instance import PipeInstance
from rondo.policy.tdpipe.settings import FusedSettings, PipeSettings, TdPipeSettings

__all__ = [
    "SCHEDULER_NAMES",
    "FusedSettings",
    "PipeInstance",
    "PipeScheduler",
    "PipeSettings",
    "PipeSetup",
    "PipeStep",
    "TdPipeSettings",
    "make_scheduler",
]
