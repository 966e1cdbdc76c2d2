"""Forms of answers as grammars: what they allow, and how bad ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

import rondo
from rondo_gateway.errors import ApiError
from rondo_gateway.schemas import ChatBody
from rondo_gateway.structure import MAX_SOURCE_CHARS, Structure, compile_structure
from rondo_gateway.text.model_files import ModelFiles
from rondo_gateway.text.tool_parsers import ToolDelta, ToolParser
from rondo_gateway.tools import plan_tools, tool_structure

TINY = Path(rondo.__file__).parent / "models" / "rondo-tiny"
TOKENIZER = LLTokenizer((TINY / "tokenizer.json").read_text(), eos_token=[2])
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/number"}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"number": {"type": "integer"}},
    },
}
NOW = {"name": "now", "parameters": {"type": "object", "additionalProperties": False}}
TOOLS = [{"type": "function", "function": f} for f in (ADD, NOW)]


def chat(**fields: Any) -> ChatBody:
    base = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return ChatBody.model_validate(base | fields)


async def grammar_of(**fields: Any) -> str:
    structure = chat(**fields).structure()
    assert structure is not None
    return await compile_structure(structure)


def accepts(grammar: str, text: str) -> bool:
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.consume_tokens(TOKENIZER.tokenize_str(text)) and matcher.is_accepting()


SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        {"response_format": {"type": "json_object"}},
        ["{}", '{"a": [1, {"b": null}]}'],
        ["[]", "5", " {}", '{"a": 1', "{  }"],
    ),
    (
        {"response_format": SCHEMA_FORMAT},
        ['{"name": "é", "age": 5}'],
        ['{"name": "x"}', '{"age": 5, "name": "x"}', '{"name": "x", "age": "5"}'],
    ),
    ({"guided_json": PERSON}, ['{"name": "x", "age": 5}'], ["{}"]),
    (
        {"guided_json": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        ["{}", '{"a": 5}'],
        ['{"b": 5}', '{"a": 5, "b": 5}'],  # what is not named is not wanted
    ),
    (
        {
            "guided_json": {
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "additionalProperties": {"type": "boolean"},
            }
        },
        ['{"a": 5, "b": true}'],
        ['{"a": 5, "b": 5}'],
    ),
    ({"guided_json": json.dumps(PERSON)}, ['{"name": "x", "age": 5}'], ["{}"]),
    ({"guided_regex": "[ab]{2,3}|x"}, ["ab", "bbb", "x"], ["a", "aaaa", "ax"]),
    ({"guided_choice": ['say "hi"', "a|b", "é\n"]}, ['say "hi"', "a|b", "é\n"], ["a", "b", "say"]),
    ({"guided_grammar": 'start: "a"+ "b"?'}, ["a", "aab"], ["b", "abb"]),
    ({"guided_grammar": 'root ::= "a" root | "b"'}, ["b", "aab"], ["a", "ba"]),
    ({"structured_outputs": {"choice": ["x", "y"]}}, ["x"], ["z"]),
    ({"structured_outputs": {"json": PERSON}}, ['{"name": "x", "age": 5}'], ["{}"]),
    ({"structured_outputs": {"json_object": True}}, ["{}"], ["[]"]),
]


@pytest.mark.parametrize(("fields", "right", "wrong"), CASES, ids=lambda v: str(v)[:40])
async def test_a_form_allows_what_fits_it(
    fields: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    grammar = await grammar_of(**fields)
    assert [text for text in right if not accepts(grammar, text)] == []
    assert [text for text in wrong if accepts(grammar, text)] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": {"type": "nonsense"}}, "guided_json"),
        ({"guided_json": "no json"}, "guided_json"),
        ({"guided_json": "[" * 5000}, "guided_json"),
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_grammar": "start: missing"}, "guided_grammar"),
        ({"guided_grammar": "root ::= ("}, "guided_grammar"),
        ({"structured_outputs": {"regex": "["}}, "structured_outputs.regex"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "p", "schema": {"$ref": "#/nowhere"}},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"guided_regex": "(a{1000}){1000}"}, "guided_regex"),  # valid, with a million states
        ({"guided_regex": "a" * (MAX_SOURCE_CHARS + 1)}, "guided_regex"),
    ],
)
async def test_a_bad_form_is_a_400_that_names_it(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        await grammar_of(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.fixture(scope="module")
def model() -> ModelFiles:
    return ModelFiles.load("rondo-tiny", TINY)


def calls_of(kind: str, text: str) -> list[tuple[str, str]]:
    parser = ToolParser(kind, ("add", "now"))
    deltas = [*parser.push(text), *parser.finish()]
    assert all(isinstance(delta, ToolDelta) for delta in deltas)
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        assert isinstance(delta, ToolDelta)
        if delta.name is not None:
            calls.append((delta.name, ""))
        calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    return calls


ONE = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 5}}\n</tool_call>',
    "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 5}}]',
    "llama3_json": '{"name": "add", "parameters": {"a": 5}}',
}
TWO = {
    "hermes": ONE["hermes"] + '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "mistral": ONE["mistral"][:-1] + ', {"name": "now", "arguments": {}}]',
    "llama3_json": ONE["llama3_json"] + '; {"name": "now", "parameters": {}}',
}


@pytest.mark.parametrize("kind", ONE)
async def test_forced_calls_are_those_that_the_parser_reads(kind: str, model: ModelFiles) -> None:
    async def forced(**fields: Any) -> str:
        body = chat(tools=TOOLS, **fields)
        plan = plan_tools(body, model, kind)
        assert plan is not None
        structure = tool_structure(body, plan)
        assert structure is not None
        return await compile_structure(structure)

    several = await forced(tool_choice="required")
    single = await forced(tool_choice="required", parallel_tool_calls=False)
    named = await forced(tool_choice={"type": "function", "function": {"name": "now"}})
    assert [accepts(g, ONE[kind]) for g in (several, single, named)] == [True, True, False]
    assert [accepts(g, TWO[kind]) for g in (several, single, named)] == [True, False, False]
    assert not accepts(several, ONE[kind].replace("5", '"5"'))
    assert calls_of(kind, TWO[kind]) == [("add", '{"a": 5}'), ("now", "{}")]


def test_a_template_without_tools_cannot_choose(model: ModelFiles) -> None:
    with pytest.raises(ApiError) as caught:
        plan_tools(chat(tools=TOOLS), model, "")
    assert caught.value.param == "tools"
    assert plan_tools(chat(tools=TOOLS, tool_choice="none"), model, "") is None
    assert plan_tools(chat(), model, "") is None
    free = chat(tools=TOOLS)
    plan = plan_tools(free, model, "mistral")
    assert plan is not None
    assert plan.parser == "mistral"
    assert tool_structure(free, plan) is None


async def test_bad_parameters_of_a_tool_are_named(model: ModelFiles) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}]
    body = chat(tools=tools, tool_choice="required")
    plan = plan_tools(body, model, "")
    assert plan is not None
    structure = tool_structure(body, plan)
    assert structure is not None
    with pytest.raises(ApiError) as caught:
        await compile_structure(structure)
    assert caught.value.param == "tools"


async def test_a_large_schema_is_followed() -> None:
    many = {"enum": [f"value {number}" for number in range(1000)]}
    grammar = await compile_structure(Structure("json", json.dumps(many), "guided_json"))
    assert accepts(grammar, '"value 7"')
    assert not accepts(grammar, '"value"')
