"""Answers against the types of OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion_usage import CompletionUsage

from rondo_gateway.responses import (
    DONE,
    Choice,
    ChunkEncoder,
    Head,
    Kind,
    chat_completion,
    model_card,
    model_list,
    text_completion,
    tool_call,
    usage,
)
from rondo_gateway.text.tool_parsers import Delta, ToolDelta

HEAD = Head("id-1", 1_700_000_000, "m", "fp_1")
CHOICES = [
    Choice(0, 'Hello\n\u2028 你好 "x" \x00', "stop"),
    Choice(1, "", "length"),
]


def event(frame: bytes) -> dict[str, Any]:
    """Parse a frame as the strictest client would: any line end of Unicode splits lines."""
    lines = frame.decode().splitlines()
    assert len(lines) == 2
    assert lines[1] == ""
    assert lines[0].startswith("data: ")
    assert frame.endswith(b"\n\n")
    return dict(json.loads(lines[0].removeprefix("data: ")))


def test_a_chat_completion() -> None:
    body = chat_completion(HEAD, CHOICES, usage(5, 7))
    parsed = ChatCompletion.model_validate_json(body, strict=True)
    assert (parsed.id, parsed.model, parsed.created) == ("id-1", "m", 1_700_000_000)
    assert [choice.message.content for choice in parsed.choices] == [c.text for c in CHOICES]
    assert [choice.finish_reason for choice in parsed.choices] == ["stop", "length"]
    assert parsed.usage == CompletionUsage(prompt_tokens=5, completion_tokens=7, total_tokens=12)


def test_a_text_completion() -> None:
    body = text_completion(HEAD, CHOICES, usage(5, 7))
    parsed = Completion.model_validate_json(body, strict=True)
    assert [choice.text for choice in parsed.choices] == [c.text for c in CHOICES]
    assert [choice.index for choice in parsed.choices] == [0, 1]
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 12


def test_models() -> None:
    listed = model_list([model_card("m", 1, 4_096)])
    assert listed["object"] == "list"
    model = Model.model_validate(listed["data"][0], strict=True)
    assert (model.id, model.object, model.owned_by) == ("m", "model", "rondo")
    assert listed["data"][0]["max_model_len"] == 4_096


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_chat_stream(include_usage: bool) -> None:
    chunks = ChunkEncoder(Kind.CHAT, HEAD, include_usage=include_usage)
    frames = [
        chunks.role(2),
        chunks.content(2, "Hel"),
        chunks.content(2, "lo"),
        chunks.finish(2, "length"),
    ]
    events = [event(frame) for frame in frames]
    assert all(("usage" in e) == include_usage for e in events)
    parsed = [ChatCompletionChunk.model_validate(e, strict=True) for e in events]
    assert {(chunk.id, chunk.model, chunk.created) for chunk in parsed} == {
        ("id-1", "m", 1_700_000_000)
    }
    assert [chunk.choices[0].index for chunk in parsed] == [2] * 4
    assert [chunk.choices[0].delta.role for chunk in parsed] == ["assistant", None, None, None]
    assert [chunk.choices[0].delta.content for chunk in parsed] == ["", "Hel", "lo", None]
    finishes = [chunk.choices[0].finish_reason for chunk in parsed]
    assert finishes == [None, None, None, "length"]


def test_a_text_stream() -> None:
    chunks = ChunkEncoder(Kind.TEXT, HEAD)
    content, finish = event(chunks.content(1, "Hi")), event(chunks.finish(1, "stop"))
    assert content["choices"][0].pop("finish_reason") is None  # the type wants one in every chunk
    content["choices"][0]["finish_reason"] = "stop"
    for parsed, text in ((content, "Hi"), (finish, "")):
        chunk = Completion.model_validate(parsed, strict=True)
        assert (chunk.object, chunk.choices[0].index) == ("text_completion", 1)
        assert (chunk.choices[0].text, chunk.choices[0].finish_reason) == (text, "stop")


@pytest.mark.parametrize("kind", Kind)
def test_the_usage_chunk_has_no_choices(kind: Kind) -> None:
    parsed = event(ChunkEncoder(kind, HEAD, include_usage=True).usage(usage(3, 4)))
    model = ChatCompletionChunk if kind is Kind.CHAT else Completion
    chunk = model.model_validate(parsed, strict=True)
    assert chunk.choices == []
    assert chunk.usage == CompletionUsage(prompt_tokens=3, completion_tokens=4, total_tokens=7)


@settings(deadline=None)
@given(text=st.text(), model=st.text(), kind=st.sampled_from(Kind))
def test_any_text_survives_the_stream(text: str, model: str, kind: Kind) -> None:
    parsed = event(ChunkEncoder(kind, Head("id", 1, model)).content(0, text))
    choice = parsed["choices"][0]
    assert parsed["model"] == model
    assert (choice["delta"]["content"] if kind is Kind.CHAT else choice["text"]) == text


def test_a_chat_that_calls_tools() -> None:
    calls = [tool_call("call_1", "f", '{"a": 1}'), tool_call("call_2", "g", "{}")]
    body = chat_completion(HEAD, [Choice(0, "", "tool_calls", tool_calls=calls)], usage(1, 1))
    [choice] = ChatCompletion.model_validate_json(body, strict=True).choices
    assert choice.message.content is None
    assert [call.model_dump() for call in choice.message.tool_calls or ()] == calls
    assert choice.finish_reason == "tool_calls"


def test_streamed_tool_calls_and_text() -> None:
    chunks = ChunkEncoder(Kind.CHAT, HEAD)
    deltas: list[Delta] = [
        "Hm. ",
        ToolDelta(0, "", "f", "call_1"),
        ToolDelta(0, '{"\u2028'),
        ToolDelta(0, '"}'),
    ]
    frames = chunks.shaped(1, deltas).decode().replace("\n\n", "\n\n\0").split("\0")[:-1]
    parsed = [ChatCompletionChunk.model_validate(event(f.encode()), strict=True) for f in frames]
    first, begin, *rest = [chunk.choices[0].delta for chunk in parsed]
    assert first.content == "Hm. "
    assert begin.tool_calls is not None
    assert (begin.tool_calls[0].id, begin.tool_calls[0].type) == ("call_1", "function")
    parts = [call.function for delta in rest for call in delta.tool_calls or ()]
    assert [part and part.arguments for part in parts] == ['{"\u2028', '"}']


def test_logprobs_stand_beside_the_first_text() -> None:
    entry = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
    logprobs = {"content": [entry], "refusal": None}
    for deltas in (["x"], []):
        frame = ChunkEncoder(Kind.CHAT, HEAD).shaped(0, deltas, logprobs)
        [choice] = ChatCompletionChunk.model_validate(event(frame), strict=True).choices
        assert choice.logprobs is not None
        assert choice.logprobs.model_dump() == logprobs
    whole = chat_completion(HEAD, [Choice(0, "x", "stop", logprobs)], usage(1, 1))
    parsed = ChatCompletion.model_validate_json(whole, strict=True).choices[0].logprobs
    assert parsed is not None
    assert parsed.model_dump() == logprobs


def test_usage_so_far_in_every_chunk() -> None:
    frame = ChunkEncoder(Kind.CHAT, HEAD, include_usage=True).shaped(0, ["x"], None, usage(3, 1))
    assert event(frame)["usage"] == usage(3, 1)


def test_done() -> None:
    assert DONE == b"data: [DONE]\n\n"
