"""What a request asks for, with nothing left open but the length of its prompt."""

from __future__ import annotations

from dataclasses import dataclass

from rondo.types import Sampling, Slo


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """How tool calls are read from the answer.

    Attributes:
        parser: the format's name (`rondo_gateway.text.tool_parsers`).
        names: of the tools that may be called; calls of others are text.
        parallel: whether an answer may call more than one.
        named: the client chose the one to call; such answers end with "stop", as OpenAI's do.
    """

    parser: str
    names: tuple[str, ...]
    parallel: bool
    named: bool


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What one body asks for.

    Attributes:
        samplings: one for each candidate, in the order of the choices' indices; with several
            prompts, first all candidates of the first prompt.
        kept: choices a prompt; with `best_of` fewer than candidates.
        max_tokens: as the client set it; None for the rest of the context.
        default_max_tokens: holds when `max_tokens` is None; gives way to a shorter context.
        include_stop: the stop string (or token) that ends an answer is part of its text.
        logprobs: how many alternatives to show beside each token; None shows nothing.
        echo: the answer's text begins with the prompt.
        hide_special: special tokens have no text.
        tokens_as_ids: tokens are shown as "token_id:17" in logprobs.
        grammar_param: the field that the samplings' grammar came from.
        background: nobody waits for it (`rondo_gateway.background`).
    """

    samplings: tuple[Sampling, ...]
    kept: int
    max_tokens: int | None
    default_max_tokens: int | None
    stops: tuple[str, ...]
    ignore_eos: bool
    slo: Slo
    stream: bool
    include_usage: bool
    continuous_usage: bool = False
    include_latency: bool = False
    include_stop: bool = False
    logprobs: int | None = None
    echo: bool = False
    hide_special: bool = True
    tokens_as_ids: bool = False
    grammar_param: str = "response_format"
    tools: ToolPlan | None = None
    background: bool = False
