"""What a scheduler of a pipeline may be told."""

from __future__ import annotations

import msgspec

#: Steps ahead at which KV use is simulated, as in the paper's artifact.
PAPER_POINTS = (5, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class TdPipeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Knobs of `tdpipe` and `tdpipe-fused`; the switches take one part each away.

    greedy: simulate future KV use to end a prefill phase; else it ends when `fixed_fill` of the
    pool is in use. predict: use the lengths on the requests; else the mean of the answers that
    ended so far, `first_guess` tokens before any did. steal: balance the decode batches; else a
    request stays in the batch that was smallest when it was prefilled. compare: go back to prefill
    when spatial intensity falls below temporal intensity; else when `fixed_return` of the
    requests that decoded at the beginning of the phase have ended.

    kv_share: share of the pool that the simulated use may reach. points: steps ahead at which it is
    simulated. reference_batch: sequences that saturate a stage. prefill_ahead: prefill steps that
    may wait for the first stage, beyond one for each stage.

    Ours, and off unless asked for: size: no batch is larger than brings most tokens a second.
    level: stealing evens cached tokens, too. even: prefill steps take prompts in chunks, and no
    more than makes them as long as a decode step.
    """

    greedy: bool = True
    predict: bool = True
    steal: bool = True
    compare: bool = True
    kv_share: float = 0.9
    points: tuple[int, ...] = PAPER_POINTS
    reference_batch: int = 256
    prefill_ahead: int = 2
    fixed_fill: float = 0.7
    fixed_return: float = 0.3
    first_guess: int = 256
    size: bool = False
    level: bool = False
    even: bool = False


class FusedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Knobs of `tdpipe-fused`; its first three replace those of `tdpipe`.

    step_tokens: most tokens of a step with prompts. resume_share: simulated use, as a share of the
    pool, below which a prefill phase begins again. order: long answers begin in time (`order`).
    tail: how long an answer may take beyond the job's end as foreseen, in mean predicted answers.
    """

    size: bool = True
    level: bool = True
    kv_share: float = 1.0
    step_tokens: int = 256
    resume_share: float = 0.9
    order: bool = True
    tail: float = 1.5


class PipeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What any scheduler of a pipeline may be told.

    prefill_tokens: prompt tokens of a step that only prefills; a longer prompt goes alone.
    budget_tokens: tokens of a hybrid step, decodes included. max_batch: sequences in one step.
    watermark: share of the pool that admission leaves free in `pp-separate` and `pp-hybrid`.
    """

    prefill_tokens: int = 1024
    budget_tokens: int = 512
    max_batch: int = 1024
    watermark: float = 0.01
    tdpipe: TdPipeSettings = TdPipeSettings()
    fused: FusedSettings = FusedSettings()
