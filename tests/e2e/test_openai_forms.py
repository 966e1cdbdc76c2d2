"""Answers in a given form, and tool calls, with the official client against torch workers."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

MODEL = "rondo-tiny"
QUESTION: Any = [{"role": "user", "content": "What is 12 plus 7?"}]
COMMON: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NOW: Any = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "additionalProperties": False}},
}


class Weather(BaseModel):
    """What `parse` is to make of an answer."""

    city: Literal["Paris", "Rome"]
    warm: bool


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_follows_a_json_schema(client: OpenAI, stream: bool) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
    for seed in range(3):
        asked: Any = {**COMMON, "temperature": 1.0, "seed": seed, "response_format": form}
        if stream:
            chunks = client.chat.completions.create(**asked, stream=True)
            text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
        else:
            text = client.chat.completions.create(**asked).choices[0].message.content
        person = json.loads(text)
        assert person["name"] in ("ann", "bob")
        assert person["age"] <= 99


def test_json_objects_and_guided_answers(client: OpenAI) -> None:
    def answer(**extra: Any) -> str:
        asked = client.chat.completions.create(
            **{**COMMON, "temperature": 1.0}, max_tokens=60, seed=2, extra_body=extra
        )
        return asked.choices[0].message.content or ""

    assert answer(response_format={"type": "json_object"}).startswith("{")
    assert answer(guided_choice=["red", "blue"]) in ("red", "blue")
    assert answer(guided_regex="[0-9]{3}-[ab]{2}")[3] == "-"
    assert set(answer(guided_grammar='root ::= "x" | "x" root')) == {"x"}
    assert json.loads(answer(structured_outputs={"json": PERSON}))["name"]
    text = client.completions.create(
        model=MODEL, prompt="a", max_tokens=50, extra_body={"guided_choice": ["yes", "no"]}
    )
    assert text.choices[0].text in ("yes", "no")


def test_parse_reads_a_pydantic_model(client: OpenAI) -> None:
    answer = client.chat.completions.parse(**COMMON, response_format=Weather)
    assert isinstance(answer.choices[0].message.parsed, Weather)


def test_forms_that_cannot_be_are_refused(client: OpenAI) -> None:
    for extra, param in (
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_json": {"type": "x"}}, "guided_json"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_regex": "a", "tools": [WEATHER], "tool_choice": "required"}, "guided_regex"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**COMMON, extra_body=extra)
        assert caught.value.param == param


def test_a_required_call_fits_its_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        **COMMON, tools=[WEATHER, NOW], tool_choice="required", parallel_tool_calls=False
    )
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.id.startswith("call_")
    given = json.loads(call.function.arguments)
    assert given == {} if call.function.name == "now" else given["city"] in ("Paris", "Rome")
    back: Any = [
        *QUESTION,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    again = client.chat.completions.create(
        model=MODEL, messages=back, tools=[WEATHER], tool_choice="none", max_tokens=5
    )
    assert again.choices[0].message.tool_calls is None


def test_a_named_call_streams(client: OpenAI) -> None:
    chosen: Any = {"type": "function", "function": {"name": "get_weather"}}
    calls: dict[int, dict[str, str]] = {}
    finish = None
    for chunk in client.chat.completions.create(
        **COMMON, tools=[WEATHER, NOW], tool_choice=chosen, stream=True
    ):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            assert not choice.delta.content
            for part in choice.delta.tool_calls or []:
                call = calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                assert part.function is not None
                call["id"] += part.id or ""
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
    assert finish == "stop", "as OpenAI's, where the client named the function"
    assert list(calls) == [0]
    assert calls[0]["name"] == "get_weather"
    assert json.loads(calls[0]["arguments"])["city"] in ("Paris", "Rome")


def test_a_model_that_sees_no_tools_cannot_choose_one(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="takes no tools") as caught:
        client.chat.completions.create(**COMMON, tools=[WEATHER])
    assert caught.value.param == "tools"
