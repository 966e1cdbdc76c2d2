"""What the bodies of POST /v1/chat/completions and /v1/completions have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec.structs import replace
from pydantic import Field, ValidationInfo, field_validator

from rondo.types import Sampling, Slo
from rondo_gateway.fields import Biases, Stops, Text, TokenIds, between, unsupported
from rondo_gateway.messages import Strict
from rondo_gateway.plan import GenerationPlan
from rondo_gateway.slo import SloField
from rondo_gateway.structure import StructureFields

MAX_CHOICES = 16
_SEED_SPAN = 2**64
#: Fields that go into Sampling as they are.
_SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
)

Probability = Annotated[float | None, between(0.0, 1.0)]
Penalty = Annotated[float | None, between(-2.0, 2.0)]
Limit = Annotated[int | None, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Context:
    """What a plan depends on beside the body.

    Attributes:
        defaults: the model's sampling, for whatever the body leaves open.
        random_seed: used where the body has no seed.
        slo: of this request.
        grammar: that the answer must follow, compiled; `grammar_param` is where it came from.
    """

    defaults: Sampling
    random_seed: int
    slo: Slo
    grammar: str = ""
    grammar_param: str = "response_format"


class StreamOptions(Strict):
    """OpenAI's stream_options, vLLM's continuous_usage_stats, and Rondo's include_latency."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_latency: bool | None = None


class GenerationBody(StructureFields):
    """What both kinds of bodies have in common."""

    model: Text
    max_tokens: Limit = None
    temperature: Annotated[float | None, between(0.0, 2.0)] = None
    top_p: Probability = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    min_p: Probability = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10, allow_inf_nan=False)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    logit_bias: Biases = ()
    stop: Stops = ()
    stop_token_ids: TokenIds = ()
    include_stop_str_in_output: bool | None = None
    min_tokens: Annotated[int | None, Field(ge=0)] = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Limit = None
    return_tokens_as_token_ids: bool | None = None
    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include_latency: bool | None = None
    slo: SloField = None
    priority: int | None = None
    user: Text | None = None

    allowed_token_ids: Annotated[Any, unsupported([])] = None
    bad_words: Annotated[Any, unsupported([])] = None
    early_stopping: Annotated[Any, unsupported(False)] = None
    length_penalty: Annotated[Any, unsupported(1.0, 1)] = None
    logits_processors: Annotated[Any, unsupported([])] = None
    prompt_logprobs: Annotated[Any, unsupported()] = None
    use_beam_search: Annotated[Any, unsupported(False)] = None

    @field_validator("top_p")
    @classmethod
    def _some_probability(cls, top_p: float | None) -> float | None:
        if top_p == 0:
            raise ValueError("must be greater than 0")
        return top_p

    @field_validator("stream_options")
    @classmethod
    def _only_in_a_stream(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise ValueError("is only allowed when 'stream' is true")
        return options

    @property
    def choices_per_prompt(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    def _plan(
        self, context: Context, samplings: tuple[Sampling, ...], max_tokens: int | None
    ) -> GenerationPlan:
        options = self.stream_options or StreamOptions()
        skip = self.skip_special_tokens
        return GenerationPlan(
            samplings=samplings,
            kept=self.choices_per_prompt,
            max_tokens=max_tokens,
            default_max_tokens=None,
            stops=self.stop,
            ignore_eos=bool(self.ignore_eos),
            slo=context.slo,
            stream=bool(self.stream),
            include_usage=bool(options.include_usage),
            continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
            include_latency=bool(self.include_latency or options.include_latency),
            include_stop=bool(self.include_stop_str_in_output),
            hide_special=skip is None or skip,
            tokens_as_ids=bool(self.return_tokens_as_token_ids),
            grammar_param=context.grammar_param,
        )

    def _samplings(
        self,
        context: Context,
        *,
        prompts: int = 1,
        candidates: int,
        logprobs: int | None,
        prompt_logprobs: int | None = None,
    ) -> tuple[Sampling, ...]:
        """Choice i has seed + i. With a given seed each prompt starts at it, as if sent alone."""
        given = {n: value for n in _SAMPLING_FIELDS if (value := getattr(self, n)) is not None}
        base = replace(context.defaults, **given)
        base = replace(
            base,
            top_k=max(0, base.top_k),
            logit_bias=self.logit_bias,
            stop_token_ids=self.stop_token_ids,
            grammar=context.grammar,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
        if self.seed is None:
            seeds = [context.random_seed + index for index in range(prompts * candidates)]
        else:
            seeds = [self.seed + index for index in range(candidates)] * prompts
        return tuple(replace(base, seed=_wrap(seed)) for seed in seeds)


def _wrap(seed: int) -> int:
    """Keep a seed in 64 signed bits."""
    return (seed + _SEED_SPAN // 2) % _SEED_SPAN - _SEED_SPAN // 2
