"""Request bodies: what is accepted, and what is refused under which name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from rondo_gateway.errors import ApiError
from rondo_gateway.schemas import ChatBody, CompletionBody


def chat(**fields: Any) -> ChatBody:
    base = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return ChatBody.model_validate(base | fields)


def completion(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate({"model": "m", "prompt": "hi"} | fields)


def refused_field(make: Any, **fields: Any) -> str:
    """Return the dotted name under which the first problem is reported."""
    with pytest.raises(ValidationError) as caught:
        make(**fields)
    return ".".join(str(part) for part in caught.value.errors()[0]["loc"])


def refused_top(make: Any, **fields: Any) -> str:
    """Return the first part of that name."""
    return refused_field(make, **fields).partition(".")[0]


ACCEPTED: list[tuple[str, list[Any]]] = [
    ("max_tokens", [1, 10**6, None]),
    ("temperature", [0, 0.0, 1, 2.0, None]),
    ("top_p", [1, 1.0, 1e-9, None]),
    ("top_k", [-1, 0, 1, 50, None]),
    ("min_p", [0, 0.5, 1, None]),
    ("presence_penalty", [-2, 0, 2.0, None]),
    ("frequency_penalty", [-2, 0, 2.0, None]),
    ("seed", [0, -5, 2**63 - 1, -(2**63), None]),
    ("stop", ["x", ["x"], ["a"] * 16, [], None]),
    ("ignore_eos", [True, False, None]),
    ("n", [1, 16, None]),
    ("stream", [True, False, None]),
    ("stream_options", [None]),
    ("logit_bias", [None, {}, {"5": 1}, {"50256": -100, "0": 100.0}]),
    ("stop_token_ids", [None, [], [5, 6]]),
    ("min_tokens", [0, 5, None]),
    ("repetition_penalty", [0.5, 1, 2.0, None]),
    ("truncate_prompt_tokens", [1, None]),
    ("slo", [None, {}, "batch", {"class": "batch"}, {"ttft_ms": 200.5, "tpot_ms": 50}]),
    # Known to OpenAI, without effect here.
    ("user", ["me", None]),
    ("metadata", [{"a": "b"}]),
    ("store", [True]),
    ("service_tier", ["auto"]),
    ("reasoning_effort", ["low"]),
    ("prompt_cache_key", ["k"]),
    # Known to nobody.
    ("surprise", [1, {"x": []}]),
]
REFUSED: list[tuple[str, list[Any]]] = [
    ("model", [None, 1, "\ud800"]),
    ("max_tokens", [-1, 1.5, "5", True]),
    ("temperature", [-0.1, 2.1, math.nan, math.inf, "0.5", True]),
    ("top_p", [0, -0.1, 1.1, math.nan]),
    ("top_k", [-2, 1.5, "1"]),
    ("min_p", [-0.1, 1.1]),
    ("presence_penalty", [-2.1, 2.1]),
    ("frequency_penalty", [-2.1, 2.1]),
    ("seed", [1.5, "1", 2**63, -(2**63) - 1]),
    ("stop", ["", [""], ["a"] * 17, 5, [5], {"a": 1}, "\udfff"]),
    ("ignore_eos", ["yes", 1]),
    ("n", [0, 17, -1, True]),
    ("stream", ["true", 1]),
    ("logit_bias", [5, [], {"a": 1}, {"-1": 1}, {"5": 101}, {"5": "1"}, {"5": math.nan}]),
    ("stop_token_ids", [5, ["a"], [True], [1] * 65]),
    ("min_tokens", [-1, 0.5]),
    ("repetition_penalty", [0, -1, 11, math.nan]),
    ("slo", [5, [], "\ud800"]),
    ("guided_json", [5, [], ""]),
    ("guided_choice", [[], [""], "a", [5]]),
    ("guided_regex", ["", 5]),
    ("user", [5]),
    ("priority", ["high", 1.5]),
]
REFUSED_CHAT: list[tuple[str, list[Any]]] = [
    ("max_tokens", [0]),
    ("max_completion_tokens", [0, "5"]),
    ("logprobs", [1, "yes"]),
    ("top_logprobs", [5, 21, -1]),  # the first without logprobs
    ("tools", [{}, [{}], [{"type": "x"}], [{"type": "function", "function": {"name": "a b"}}]]),
    ("tool_choice", ["required", "x", {"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", [{"type": "allowed_tools", "allowed_tools": {}}]),
    ("functions", [[{"name": "f"}]]),
    ("function_call", [{"name": "f"}]),
    ("response_format", [{"type": "xml"}, {}, "json", {"type": "json_schema", "json_schema": {}}]),
    ("modalities", [["audio"], ["text", "audio"]]),
    ("audio", [{"voice": "alloy", "format": "wav"}]),
    ("web_search_options", [{}]),
    ("messages", [[], None, "hi", {}]),
]
NEUTRAL_CHAT: list[tuple[str, list[Any]]] = [
    ("max_completion_tokens", [1, None]),
    ("logprobs", [True, False, None]),
    ("top_logprobs", [0, None]),
    ("tools", [[], None, [{"type": "function", "function": {"name": "f"}}]]),
    ("tool_choice", ["none", "auto", None]),
    ("functions", [[], None]),
    ("function_call", ["none", "auto", None]),
    ("response_format", [{"type": "text"}, {"type": "json_object"}, None]),
    ("modalities", [["text"], None]),
    ("audio", [None]),
]
REFUSED_COMPLETION: list[tuple[str, list[Any]]] = [
    ("logprobs", [-1, 21, True, "5"]),
    ("echo", [1]),
    ("suffix", ["end"]),
    ("best_of", [17, 0]),
    ("prompt", [None, 5, [], [[]], ["a", 1], [1, "a"], [True], [[1], "a"], [[1.5]], "\ud800", {}]),
    ("prompt", [["a"] * 257]),
]
NEUTRAL_COMPLETION: list[tuple[str, list[Any]]] = [
    ("logprobs", [0, 5, 20, False, None]),
    ("echo", [True, False, None]),
    ("suffix", ["", None]),
    ("best_of", [1, 2, None]),
    ("prompt", ["", "a", ["a", "b"], [1, 2], list(range(1_000)), [[1], [2, 3]]]),
]


def flat(table: list[tuple[str, list[Any]]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table for value in values]


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize(("name", "value"), flat(ACCEPTED))
def test_accepted(make: Any, name: str, value: Any) -> None:
    make(**{name: value})


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize(("name", "value"), flat(REFUSED))
def test_refused_under_its_name(make: Any, name: str, value: Any) -> None:
    assert refused_top(make, **{name: value}) == name


@pytest.mark.parametrize(("name", "value"), flat(REFUSED_CHAT))
def test_refused_in_a_chat(name: str, value: Any) -> None:
    assert refused_top(chat, **{name: value}) == name


@pytest.mark.parametrize(("name", "value"), flat(NEUTRAL_CHAT))
def test_neutral_values_are_accepted_in_a_chat(name: str, value: Any) -> None:
    chat(**{name: value})


@pytest.mark.parametrize(("name", "value"), flat(REFUSED_COMPLETION))
def test_refused_in_a_completion(name: str, value: Any) -> None:
    assert refused_top(completion, **{name: value}) == name


@pytest.mark.parametrize(("name", "value"), flat(NEUTRAL_COMPLETION))
def test_neutral_values_are_accepted_in_a_completion(name: str, value: Any) -> None:
    completion(**{name: value})


@pytest.mark.parametrize("make", [ChatBody, CompletionBody])
def test_a_missing_field_is_named(make: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        make.model_validate({})
    missing = {str(problem["loc"][0]) for problem in caught.value.errors()}
    assert missing == {"model", "messages" if make is ChatBody else "prompt"}


def test_an_unsupported_parameter_has_its_own_error_type() -> None:
    with pytest.raises(ValidationError) as caught:
        chat(audio={})
    assert caught.value.errors()[0]["type"] == "unsupported_parameter"


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "1"])
@pytest.mark.parametrize("name", ["ttft_ms", "tpot_ms"])
def test_a_bad_slo_is_named(name: str, value: Any) -> None:
    assert refused_field(chat, slo={name: value}) == f"slo.{name}"


@pytest.mark.parametrize("stream", [None, False])
def test_stream_options_need_a_stream(stream: Any) -> None:
    assert refused_field(chat, stream=stream, stream_options={}) == "stream_options"
    chat(stream=True, stream_options={"include_usage": True})


# Messages.


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_content_is_required_but_from_an_assistant(role: str) -> None:
    assert refused_field(chat, messages=[{"role": role}]) == "messages.0.content"
    with_null = [{"role": "user", "content": "x"}, {"role": role, "content": None}]
    assert refused_field(chat, messages=with_null) == "messages.1.content"
    assert chat(messages=[{"role": "assistant"}]).template_messages() == [
        {"role": "assistant", "content": ""}
    ]


@pytest.mark.parametrize(
    "content",
    [5, {}, [5], [{}], [{"type": "text"}], [{"type": "image_url", "image_url": {"url": "x"}}]],
)
def test_bad_content_is_refused(content: Any) -> None:
    assert refused_field(chat, messages=[{"role": "user", "content": content}]) == (
        "messages.0.content"
    )


def test_a_bad_role_is_named() -> None:
    assert refused_field(chat, messages=[{"role": "robot", "content": "x"}]) == "messages.0.role"


def test_messages_for_the_template() -> None:
    function = {"name": "f", "arguments": '{"q": "<b>"}'}
    body = chat(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
            {"role": "user", "content": "", "name": "ann", "whatever": 1},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "function": function}],
            },
            {"role": "tool", "content": "r", "tool_call_id": "1"},
            {"role": "assistant", "content": "x", "tool_calls": []},
        ]
    )
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"q": "<b>"}}}
    assert body.template_messages() == [
        {"role": "developer", "content": "a\nb"},
        {"role": "user", "content": "", "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "1"},
        {"role": "assistant", "content": "x"},
    ]


@pytest.mark.parametrize("arguments", ["{", "[1]", 5, None])
def test_bad_tool_arguments_are_named(arguments: Any) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "assistant", "tool_calls": [call]}]
    where = "messages.0.tool_calls.0.function.arguments"
    assert refused_field(chat, messages=messages) == where


FUNCTION = {"type": "function", "function": {"name": "f"}}


def test_a_named_function_must_be_there() -> None:
    tools = [FUNCTION]
    assert chat(tools=tools, tool_choice=FUNCTION).tool_choice == "function:f"
    other = {"type": "function", "function": {"name": "g"}}
    assert refused_field(chat, tools=tools, tool_choice=other) == "tool_choice"


def test_the_best_of_fewer_than_n_or_of_a_stream_is_refused() -> None:
    assert refused_field(completion, n=3, best_of=2) == "best_of"
    assert refused_field(completion, n=1, best_of=2, stream=True) == "best_of"
    completion(n=2, best_of=2, stream=True)


def test_forms_exclude_each_other() -> None:
    body = chat(guided_regex="a", response_format={"type": "json_object"})
    with pytest.raises(ApiError) as caught:
        body.structure()
    assert caught.value.param == "guided_regex"
    assert chat(response_format={"type": "text"}).structure() is None


def test_a_json_schema_format_needs_its_schema() -> None:
    with pytest.raises(ApiError) as caught:
        chat(response_format={"type": "json_schema"}).structure()
    assert caught.value.param == "response_format.json_schema"
