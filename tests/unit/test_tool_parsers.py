"""Tool calls in answers: every family, cut anywhere, and what only looks like a call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_gateway.text.tool_parsers import FORMATS, ToolDelta, ToolParser, parser_for_template

NAMES = ("get_weather", "add")
Calls = list[tuple[str, Any]]
ONE: Calls = [("get_weather", {"city": 'Zürich "{[\\', "days": [1, {"a": None}]})]
TWO: Calls = [*ONE, ("add", {})]


def hermes(calls: Calls) -> str:
    blocks = [json.dumps({"name": name, "arguments": given}) for name, given in calls]
    return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def mistral(calls: Calls) -> str:
    return "[TOOL_CALLS]" + json.dumps([{"name": n, "arguments": a} for n, a in calls])


def mistral_new(calls: Calls) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(given)}" for name, given in calls)


def llama(calls: Calls) -> str:
    return "; ".join(json.dumps({"name": n, "parameters": a}) for n, a in calls)


def llama_tag(calls: Calls) -> str:
    return "<|python_tag|>" + llama(calls)


WRITERS = [
    ("hermes", hermes),
    ("mistral", mistral),
    ("mistral", mistral_new),
    ("llama3_json", llama),
    ("llama3_json", llama_tag),
]
EVERY = pytest.mark.parametrize(("kind", "write"), WRITERS, ids=lambda v: getattr(v, "__name__", v))


def read(
    kind: str, text: str, borders: list[int], *, parallel: bool = True
) -> tuple[str, Calls, list[ToolDelta]]:
    """The text and the calls of an answer that comes in pieces."""
    parser = ToolParser(kind, NAMES, parallel=parallel)
    edges = [0, *sorted(border % (len(text) + 1) for border in borders), len(text)]
    deltas = [d for a, b in zip(edges, edges[1:], strict=False) for d in parser.push(text[a:b])]
    deltas += parser.finish()
    content = "".join(delta for delta in deltas if isinstance(delta, str))
    tools = [delta for delta in deltas if isinstance(delta, ToolDelta)]
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for tool in tools:
        if tool.name is not None:
            assert tool.index not in names
            assert tool.call_id
            names[tool.index] = tool.name
        assert tool.index in names, "the name comes first"
        arguments[tool.index] = arguments.get(tool.index, "") + tool.arguments
    assert list(names) == list(range(len(names)))
    return content, [(names[i], json.loads(arguments[i])) for i in names], tools


BORDERS = st.lists(st.integers(0, 500), max_size=20)


@EVERY
@given(borders=BORDERS, calls=st.sampled_from([ONE, TWO]))
def test_calls_are_found_however_the_text_is_cut(
    kind: str, write: Any, borders: list[int], calls: Calls
) -> None:
    content, found, _ = read(kind, write(calls), borders)
    assert found == calls
    assert content == ""


@pytest.mark.parametrize(("kind", "write"), WRITERS[:3])
@given(borders=BORDERS)
def test_text_before_calls_stays_text(kind: str, write: Any, borders: list[int]) -> None:
    content, found, _ = read(kind, "Let me look < [ that up.\n\n" + write(TWO), borders)
    assert found == TWO
    assert content == "Let me look < [ that up."


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "text",
    [
        "Just words.\n",
        '{"name": "unknown", "arguments": {"a": 1}} and more',
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        "<tool_call>not json</tool_call>",
        '<tool_call>\n{"name": 5, "arguments": {}}',
        '[TOOL_CALLS][{"nam": "get_weather"}]',
        "[TOOL_CALLS]unfinished",
        '{"a": 1}',
        "  {",
        "<tool_call>",
        "[TOOL_C",
        "",
    ],
)
@given(borders=BORDERS)
def test_what_is_no_call_is_text(kind: str, text: str, borders: list[int]) -> None:
    assert read(kind, text, borders)[:2] == (text, [])


@EVERY
def test_arguments_stream_as_they_come(kind: str, write: Any) -> None:
    _, _, tools = read(kind, write(ONE), list(range(500)))
    assert len(tools) > 20
    assert tools[0].name == "get_weather"


@EVERY
def test_without_parallel_calls_there_is_one(kind: str, write: Any) -> None:
    content, found, _ = read(kind, write(TWO), [3, 50], parallel=False)
    assert (content, found) == ("", ONE)


def test_arguments_that_are_a_string_of_json_are_unpacked() -> None:
    text = '<tool_call>{"arguments": "{\\"city\\": \\"X\\"}", "name": "get_weather"}</tool_call>'
    assert read("hermes", text, [])[1] == [("get_weather", {"city": "X"})]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    text = '<tool_call>{"name": "add"}</tool_call>'
    assert read("hermes", text, [5, 20])[1] == [("add", {})]


def test_the_family_is_read_from_the_template() -> None:
    assert parser_for_template("{% if tools %}<tool_call>{% endif %}") == "hermes"
    assert parser_for_template("{% if tools %}[TOOL_CALLS]{% endif %}") == "mistral"
    assert parser_for_template("{% if tools %}<|python_tag|>{% endif %}") == "llama3_json"
    assert parser_for_template("{{ messages }}") is None
