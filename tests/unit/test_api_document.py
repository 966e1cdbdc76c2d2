"""docs/api.md: every row of its tables of parameters, checked against what bodies do."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from openai.resources.chat.completions import Completions as Chats
from openai.resources.completions import Completions as Texts
from openai.resources.embeddings import Embeddings
from openai.resources.responses import Responses
from pydantic import ValidationError

from rondo.types import Sampling, Slo
from rondo_gateway.body import Context
from rondo_gateway.embeddings.api import EmbeddingsBody
from rondo_gateway.responses_api.body import ResponsesBody
from rondo_gateway.schemas import ChatBody, CompletionBody

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
ROW = re.compile(
    r"^\| `(\w+)` \| (chat|text|both|responses|embeddings) \| (supported|ignored|refused) \|",
    re.MULTILINE,
)
ROWS = ROW.findall(DOCUMENT.read_text())
Body = ChatBody | CompletionBody | ResponsesBody | EmbeddingsBody
BODIES: dict[str, type[Body]] = {
    "chat": ChatBody,
    "text": CompletionBody,
    "responses": ResponsesBody,
    "embeddings": EmbeddingsBody,
}
CONTEXT = Context(Sampling(), 1, Slo(ttft_s=1.0, tpot_s=1.0))
#: Of the client's own method, not of the API.
NOT_SENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
MESSAGES = [{"role": "user", "content": "hi"}]
PROMPTS: dict[str, dict[str, Any]] = {
    "chat": {"messages": MESSAGES},
    "text": {"prompt": "hi"},
    "responses": {"input": "hi"},
    "embeddings": {"input": "hi"},
}

#: A value that is taken, one that is not, and what else must be there.
SUPPORTED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "messages": (MESSAGES, [], {}),
    "prompt": ([[1, 2], [3]], [], {}),
    "model": ("m", 5, {}),
    "max_tokens": (5, -1, {}),
    "max_completion_tokens": (5, 0, {}),
    "temperature": (0.5, 2.5, {}),
    "top_p": (0.5, 0, {}),
    "n": (3, 17, {}),
    "best_of": (3, 1, {"n": 2}),
    "stream": (True, "yes", {}),
    "stream_options": ({"include_usage": True}, [], {"stream": True}),
    "stop": (["a", "b"], 5, {}),
    "seed": (7, 1.5, {}),
    "presence_penalty": (1.0, 3, {}),
    "frequency_penalty": (1.0, 3, {}),
    "logit_bias": ({"5": 1}, {"5": 101}, {}),
    "top_logprobs": (5, 21, {"logprobs": True}),
    "echo": (True, "yes", {}),
    "response_format": ({"type": "json_object"}, {"type": "xml"}, {}),
    "tools": (TOOLS, [{"type": "function"}], {}),
    "tool_choice": ("required", "maybe", {"tools": TOOLS}),
    "parallel_tool_calls": (False, "no", {}),
    "user": ("me", 5, {}),
    "top_k": (5, -2, {}),
    "min_p": (0.1, 2, {}),
    "repetition_penalty": (1.1, 0, {}),
    "min_tokens": (3, -1, {}),
    "stop_token_ids": ([1], ["a"], {}),
    "include_stop_str_in_output": (True, 1, {}),
    "ignore_eos": (True, 1, {}),
    "skip_special_tokens": (False, 1, {}),
    "add_special_tokens": (True, 1, {}),
    "truncate_prompt_tokens": (5, 0, {}),
    "return_tokens_as_token_ids": (True, 1, {}),
    "add_generation_prompt": (False, 1, {}),
    "chat_template_kwargs": ({"a": 1}, [], {}),
    "guided_json": ({"type": "object"}, 5, {}),
    "guided_regex": ("a+", "", {}),
    "guided_choice": (["a"], [], {}),
    "guided_grammar": ('start: "a"', "", {}),
    "structured_outputs": ({"regex": "a"}, 5, {}),
    "slo": ({"ttft_ms": 5}, 5, {}),
    "include_latency": (True, 1, {}),
    "priority": (3, "high", {}),
}
FUNCTION = {"type": "function", "name": "f"}
RESPONSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "model": ("m", 5, {}),
    "input": ([{"role": "user", "content": "hi"}], [], {}),
    "instructions": ("be brief", 5, {}),
    "previous_response_id": ("resp_1", 5, {}),
    "max_output_tokens": (5, 0, {}),
    "temperature": (0.5, 2.5, {}),
    "top_p": (0.5, 0.0, {}),
    "stream": (True, "yes", {}),
    "store": (False, "no", {}),
    "tools": ([FUNCTION], [{"type": "web_search"}], {}),
    "tool_choice": ("required", "maybe", {"tools": [FUNCTION]}),
    "parallel_tool_calls": (False, "no", {}),
    "text": ({"format": {"type": "json_object"}}, {"format": {"type": "xml"}}, {}),
    "include": (["message.output_text.logprobs"], ["reasoning.encrypted_content"], {}),
    "top_logprobs": (3, 21, {"include": ["message.output_text.logprobs"]}),
    "metadata": ({"a": "b"}, 5, {}),
    "slo": ("batch", 5, {}),
}
EMBEDDINGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "input": ([[1, 2], [3]], [1, "a"], {}),
    "encoding_format": ("base64", "int8", {}),
}
BY_ROUTE: dict[str, dict[str, tuple[Any, Any, dict[str, Any]]]] = {
    "embeddings": EMBEDDINGS,
    "responses": RESPONSES,
    "chat": {"logprobs": (True, 1, {})},
    "text": {"logprobs": (3, 21, {})},
}
IGNORED: dict[str, Any] = {
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "safety_identifier": "x",
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "low",
    "verbosity": "low",
    "guided_decoding_backend": "xgrammar",
    "request_id": "x",
    "reasoning": {"effort": "low"},
    "stream_options": {"include_obfuscation": True},
    "user": "me",
}
REFUSED: dict[str, Any] = {
    "suffix": "end",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "moderation": {},
    "web_search_options": {},
    "guided_whitespace_pattern": " ",
    "prompt_logprobs": 1,
    "allowed_token_ids": [5],
    "bad_words": ["x"],
    "early_stopping": True,
    "length_penalty": 1.5,
    "use_beam_search": True,
    "logits_processors": ["x"],
    "chat_template": "{{ 1 }}",
    "continue_final_message": True,
    "documents": [{}],
    "dimensions": 8,
    "normalize": False,
    "truncation": "auto",
    "background": True,
    "context_management": [{}],
    "conversation": "c",
    "image": {},
    "max_tool_calls": 5,
    "prompt": {"id": "p"},
    "access_programs": ["x"],
}


def routes_of(where: str) -> tuple[str, ...]:
    """The routes that a cell stands for."""
    return ("chat", "text") if where == "both" else (where,)


def cases(status: str) -> list[tuple[str, str]]:
    """(parameter, route) of all rows with a status."""
    return [
        (name, route) for name, where, what in ROWS if what == status for route in routes_of(where)
    ]


def body(route: str, **fields: Any) -> Body:
    """A body, planned as far as it goes without a model."""
    made = BODIES[route].model_validate({"model": "m", **PROMPTS[route], **fields})
    if isinstance(made, ResponsesBody):
        made.chat([]).plan(CONTEXT)
    elif not isinstance(made, EmbeddingsBody):
        made.plan(CONTEXT)
    return made


def refused_field(route: str, **fields: Any) -> str:
    with pytest.raises((ValidationError, RequestValidationError)) as caught:
        body(route, **fields)
    refusal: Any = caught.value
    path = [part for part in refusal.errors()[0]["loc"] if part != "body"]
    return str(path[0]).partition(".")[0]


def example(name: str, route: str) -> tuple[Any, Any, dict[str, Any]]:
    return BY_ROUTE[route].get(name) or SUPPORTED[name]


@pytest.mark.parametrize(("name", "route"), cases("supported"))
def test_supported(name: str, route: str) -> None:
    right, wrong, others = example(name, route)
    made = body(route, **{**others, name: right})
    assert name in made.model_fields_set
    assert refused_field(route, **{**others, name: wrong}) == name


@pytest.mark.parametrize(("name", "route"), cases("ignored"))
def test_ignored(name: str, route: str) -> None:
    made = body(route, **{name: IGNORED[name]})
    assert made == body(route)


@pytest.mark.parametrize(("name", "route"), cases("refused"))
def test_refused(name: str, route: str) -> None:
    with pytest.raises(ValidationError) as caught:
        body(route, **{name: REFUSED[name]})
    [problem] = caught.value.errors()
    assert (problem["type"], problem["loc"]) == ("unsupported_parameter", (name,))
    body(route, **{name: None})


@pytest.mark.parametrize(
    ("route", "method"),
    [
        ("chat", Chats.create),
        ("text", Texts.create),
        ("responses", Responses.create),
        ("embeddings", Embeddings.create),
    ],
)
def test_every_parameter_of_the_official_client_has_a_row(route: str, method: Any) -> None:
    rows = {name for name, where, _ in ROWS if route in routes_of(where)}
    assert set(inspect.signature(method).parameters) - NOT_SENT - rows == set()


@pytest.mark.parametrize("route", BODIES)
def test_every_field_of_a_body_has_a_row_and_every_row_a_field(route: str) -> None:
    rows = {name: what for name, where, what in ROWS if route in routes_of(where)}
    fields = set(BODIES[route].model_fields)
    if route == "text":
        fields -= {"response_format"}  # taken there too; the row is a chat's
    elif route == "chat":
        fields -= {"echo"}  # vLLM's, refused
    assert fields == {name for name, what in rows.items() if what != "ignored"}


def test_no_row_is_there_twice() -> None:
    names = [(name, route) for name, where, _ in ROWS for route in (where,)]
    assert len(names) == len(set(names)) > 60
