"""Bodies of POST /v1/chat/completions and /v1/completions, and what they ask for.

Surface: `ChatBody`, `CompletionBody`, their `plan(...) -> GenerationPlan`, and
`ChatBody.template_messages()`.

Types are strict ("0.5" is no number, true is no count). Parameters of OpenAI's that would change
the answer and that we lack are refused by name unless their value is neutral; OpenAI's parameters
that change nothing here (user, metadata, store, service_tier, ...) and fields that nobody knows
are accepted and ignored, as vLLM does, so that clients written for other servers work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from rondo.types import Sampling, Slo
from rondo_gateway.fields import Arguments, Content, Prompts, Stops, Text, between, unsupported

MAX_CHOICES = 16
#: OpenAI's (and vLLM's) limit for /v1/completions where the body has no max_tokens at all.
COMPLETION_MAX_TOKENS = 16
_SEED_SPAN = 2**64

Probability = Annotated[float | None, between(0.0, 1.0)]
Penalty = Annotated[float | None, between(-2.0, 2.0)]
Limit = Annotated[int | None, Field(ge=1)]
Milliseconds = Annotated[float | None, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What one body asks for, with nothing left open but the length of the prompt.

    Attributes:
        samplings: one for each choice, in the order of the choices' indices; with several
            prompts, first all choices of the first prompt.
        max_tokens: as the client set it; None for the rest of the context.
        default_max_tokens: holds when `max_tokens` is None; gives way to a shorter context.
    """

    samplings: tuple[Sampling, ...]
    max_tokens: int | None
    default_max_tokens: int | None
    stops: tuple[str, ...]
    ignore_eos: bool
    slo: Slo
    stream: bool
    include_usage: bool


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class FunctionCall(_Body):
    """The function that an assistant's earlier message called."""

    name: Text
    arguments: Arguments


class ToolCall(_Body):
    """A tool call in an assistant's earlier message."""

    id: Text | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Body):
    """One message; only an assistant's may lack content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = Field(default=None, validate_default=True)
    name: Text | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None

    @field_validator("content")
    @classmethod
    def _required(cls, content: str | None, info: ValidationInfo) -> str | None:
        if content is None and info.data.get("role") not in (None, "assistant"):
            raise ValueError("must be a string or a list of text parts")
        return content

    def for_template(self) -> dict[str, Any]:
        """Return the message as chat templates expect it: keys without a value are left out."""
        message = self.model_dump(exclude_none=True)
        message["content"] = self.content or ""  # templates concatenate it
        if not self.tool_calls:
            message.pop("tool_calls", None)
        return message


class StreamOptions(_Body):
    """OpenAI's stream_options."""

    include_usage: bool | None = None


class SloOptions(_Body):
    """Rondo's extension: the latencies this request should meet."""

    ttft_ms: Milliseconds = None
    tpot_ms: Milliseconds = None


class GenerationBody(_Body):
    """What both kinds of bodies have in common."""

    model: Text
    max_tokens: Limit = None
    temperature: Annotated[float | None, between(0.0, 2.0)] = None
    top_p: Probability = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    min_p: Probability = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: Stops = ()
    ignore_eos: bool | None = None
    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    slo: SloOptions | None = None

    logit_bias: Annotated[Any, unsupported({})] = None

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
        self,
        defaults: Sampling,
        random_seed: int,
        default_slo: Slo,
        prompts: int,
        max_tokens: int | None,
        default_max_tokens: int | None,
    ) -> GenerationPlan:
        options = self.stream_options
        return GenerationPlan(
            samplings=self._samplings(defaults, random_seed, prompts),
            max_tokens=max_tokens,
            default_max_tokens=default_max_tokens,
            stops=self.stop,
            ignore_eos=bool(self.ignore_eos),
            slo=self._slo(default_slo),
            stream=bool(self.stream),
            include_usage=options is not None and bool(options.include_usage),
        )

    def _samplings(
        self, defaults: Sampling, random_seed: int, prompts: int
    ) -> tuple[Sampling, ...]:
        """Choice i has seed + i. With a given seed each prompt starts at it, as if sent alone."""
        names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        base = replace(defaults, **given)
        base = replace(base, top_k=max(0, base.top_k))
        per_prompt = self.choices_per_prompt
        if self.seed is None:
            seeds = [random_seed + index for index in range(prompts * per_prompt)]
        else:
            seeds = [self.seed + index for index in range(per_prompt)] * prompts
        return tuple(replace(base, seed=_wrap(seed)) for seed in seeds)

    def _slo(self, default: Slo) -> Slo:
        wanted = self.slo or SloOptions()
        return Slo(
            ttft_s=default.ttft_s if wanted.ttft_ms is None else wanted.ttft_ms / 1000,
            tpot_s=default.tpot_s if wanted.tpot_ms is None else wanted.tpot_ms / 1000,
        )


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Limit = None

    logprobs: Annotated[Any, unsupported(False)] = None
    top_logprobs: Annotated[Any, unsupported(0)] = None
    tools: Annotated[Any, unsupported([])] = None
    tool_choice: Annotated[Any, unsupported("none", "auto")] = None
    functions: Annotated[Any, unsupported([])] = None
    function_call: Annotated[Any, unsupported("none", "auto")] = None
    response_format: Annotated[Any, unsupported({"type": "text"})] = None
    modalities: Annotated[Any, unsupported(["text"])] = None
    audio: Annotated[Any, unsupported()] = None
    web_search_options: Annotated[Any, unsupported()] = None

    def template_messages(self) -> list[dict[str, Any]]:
        """Return the messages for `ModelFiles.render_chat`."""
        return [message.for_template() for message in self.messages]

    def plan(self, defaults: Sampling, random_seed: int, default_slo: Slo) -> GenerationPlan:
        """Return what the body asks for; `max_completion_tokens` goes before `max_tokens`.

        Args:
            defaults: the model's sampling, for whatever the body leaves open.
            random_seed: used where the body has no seed.
            default_slo: the service's latencies, for whatever the body leaves open.
        """
        limit = self.max_completion_tokens or self.max_tokens
        return self._plan(defaults, random_seed, default_slo, 1, limit, None)


class CompletionBody(GenerationBody):
    """POST /v1/completions. `prompt` holds one entry a prompt: text or token ids."""

    prompt: Prompts

    logprobs: Annotated[Any, unsupported(False, 0)] = None
    echo: Annotated[Any, unsupported(False)] = None
    suffix: Annotated[Any, unsupported("")] = None
    best_of: Annotated[int | None, Field(ge=1)] = None

    @field_validator("best_of")
    @classmethod
    def _no_selection(cls, best_of: int | None, info: ValidationInfo) -> int | None:
        if best_of is not None and best_of > (info.data.get("n") or 1):
            raise ValueError("choosing the best of more than 'n' answers is not supported")
        return best_of

    def plan(self, defaults: Sampling, random_seed: int, default_slo: Slo) -> GenerationPlan:
        """Return what the body asks for; the arguments are those of `ChatBody.plan`.

        Without max_tokens the limit is 16, as with OpenAI; null means the rest of the context.
        """
        absent = "max_tokens" not in self.model_fields_set
        default = COMPLETION_MAX_TOKENS if absent else None
        prompts = len(self.prompt)
        return self._plan(defaults, random_seed, default_slo, prompts, self.max_tokens, default)


def _wrap(seed: int) -> int:
    """Keep a seed in 64 signed bits."""
    return (seed + _SEED_SPAN // 2) % _SEED_SPAN - _SEED_SPAN // 2
