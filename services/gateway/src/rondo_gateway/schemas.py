"""Bodies of POST /v1/chat/completions and /v1/completions, and what they ask for.

Surface: `ChatBody`, `CompletionBody`, their `plan(context) -> GenerationPlan`, and
`ChatBody.template_messages()`.

Types are strict ("0.5" is no number, true is no count). Parameters of OpenAI's that would change
the answer and that we lack are refused by name unless their value is neutral; OpenAI's parameters
that change nothing here (user, metadata, store, service_tier, ...) and fields that nobody knows
are accepted and ignored, as vLLM does, so that clients written for other servers work.
`docs/api.md` has a row for each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from rondo_gateway.body import MAX_CHOICES, Context, GenerationBody, Limit
from rondo_gateway.errors import invalid
from rondo_gateway.fields import (
    MAX_LOGPROBS,
    JsonObject,
    LogprobsCount,
    Prompts,
    ToolChoice,
    unsupported,
)
from rondo_gateway.messages import ChatMessage, Tools
from rondo_gateway.plan import GenerationPlan

#: OpenAI's (and vLLM's) limit for /v1/completions where the body has no max_tokens at all.
COMPLETION_MAX_TOKENS = 16

NumLogprobs = Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)]


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Limit = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs = None
    tools: Tools | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: JsonObject | None = None

    functions: Annotated[Any, unsupported([])] = None
    function_call: Annotated[Any, unsupported("none", "auto")] = None
    modalities: Annotated[Any, unsupported(["text"])] = None
    audio: Annotated[Any, unsupported()] = None
    moderation: Annotated[Any, unsupported()] = None
    web_search_options: Annotated[Any, unsupported()] = None
    chat_template: Annotated[Any, unsupported()] = None
    continue_final_message: Annotated[Any, unsupported(False)] = None
    documents: Annotated[Any, unsupported([])] = None
    echo: Annotated[Any, unsupported(False)] = None

    @field_validator("top_logprobs")
    @classmethod
    def _beside_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and not info.data.get("logprobs"):
            raise ValueError("is only allowed when 'logprobs' is true")
        return top

    @field_validator("tool_choice")
    @classmethod
    def _of_tools(cls, choice: str | None, info: ValidationInfo) -> str | None:
        tools = info.data.get("tools") or ()
        if choice in (None, "none", "auto"):
            return choice
        if not tools:
            raise ValueError("is only allowed when 'tools' are given")
        name = choice.partition(":")[2] if choice else ""
        if name and all(tool.function.name != name for tool in tools):
            raise ValueError(f"there is no tool '{name}'")
        return choice

    @property
    def active_tools(self) -> Tools:
        """The tools that the answer may call."""
        return [] if self.tool_choice == "none" else list(self.tools or ())

    def template_messages(self) -> list[dict[str, Any]]:
        """Return the messages for `ModelFiles.render_chat`."""
        return [message.for_template() for message in self.messages]

    def plan(self, context: Context) -> GenerationPlan:
        """Return what the body asks for; `max_completion_tokens` goes before `max_tokens`."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        samplings = self._samplings(context, candidates=self.choices_per_prompt, logprobs=logprobs)
        limit = self.max_completion_tokens or self.max_tokens
        return replace(self._plan(context, samplings, limit), logprobs=logprobs)


class CompletionBody(GenerationBody):
    """POST /v1/completions. `prompt` holds one entry a prompt: text or token ids."""

    prompt: Prompts
    max_tokens: Annotated[int | None, Field(ge=0)] = None
    logprobs: LogprobsCount = None
    echo: bool | None = None
    best_of: Annotated[int | None, Field(ge=1, le=MAX_CHOICES)] = None

    suffix: Annotated[Any, unsupported("")] = None

    @field_validator("best_of")
    @classmethod
    def _enough(cls, best_of: int | None, info: ValidationInfo) -> int | None:
        if best_of is None:
            return None
        kept = info.data.get("n") or 1
        if best_of < kept:
            raise ValueError("must not be less than 'n'")
        if best_of > kept and info.data.get("stream"):
            raise ValueError("cannot be streamed: the best is known at the end")
        return best_of

    def plan(self, context: Context) -> GenerationPlan:
        """Return what the body asks for.

        Without max_tokens the limit is 16, as with OpenAI; null means the rest of the context.

        Raises:
            ApiError: 400, no tokens are asked for, and no echo either.
        """
        if self.max_tokens == 0 and not self.echo:
            raise invalid("Invalid 'max_tokens': 0 is only for an 'echo'.", "max_tokens")
        absent = "max_tokens" not in self.model_fields_set
        candidates = self.best_of or self.choices_per_prompt
        ranked = candidates > self.choices_per_prompt
        samplings = self._samplings(
            context,
            prompts=len(self.prompt),
            candidates=candidates,
            logprobs=0 if ranked and self.logprobs is None else self.logprobs,
            prompt_logprobs=self.logprobs if self.echo else None,
        )
        return replace(
            self._plan(context, samplings, self.max_tokens),
            default_max_tokens=COMPLETION_MAX_TOKENS if absent else None,
            logprobs=self.logprobs,
            echo=bool(self.echo),
        )
