"""POST /v1/responses with the official client against torch workers."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.support.cluster import Cluster

MODEL = "rondo-tiny"
COMMON: Any = {"model": MODEL, "temperature": 0}
QUESTION = "What is 12 plus 7?"
ADD: Any = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 99}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Weather(BaseModel):
    """What `parse` is to make of an answer."""

    city: Literal["Paris", "Rome"]
    warm: bool


def test_a_response_has_the_text_of_the_chat(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        **COMMON, messages=[{"role": "user", "content": QUESTION}]
    )
    answer = client.responses.create(**COMMON, input=QUESTION, metadata={"a": "b"})
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.status, answer.metadata) == ("completed", {"a": "b"})
    assert answer.usage is not None
    assert chat.usage is not None
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.usage.output_tokens == chat.usage.completion_tokens
    parts: Any = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    assert client.responses.create(**COMMON, input=parts).output_text == answer.output_text


def test_a_response_streams_its_events_in_order(client: OpenAI) -> None:
    with client.responses.stream(**COMMON, input=QUESTION) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text
    assert len(deltas) > 1  # how many tokens meet in an event is a matter of speed
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert list(dict.fromkeys(kinds)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_response_that_is_cut_short_is_incomplete(client: OpenAI) -> None:
    answer = client.responses.create(**COMMON, input="Count from 1 to 30.", max_output_tokens=7)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 7


def test_a_response_goes_on_from_an_earlier_one(client: OpenAI) -> None:
    first = client.responses.create(**COMMON, input=QUESTION, instructions="Be brief.")
    second = client.responses.create(
        **COMMON, input="Count from 1 to 5.", previous_response_id=first.id
    )
    whole = client.chat.completions.create(
        **COMMON,
        messages=[
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "Count from 1 to 5."},
        ],
    )
    assert second.output_text == whole.choices[0].message.content
    assert second.usage is not None
    assert whole.usage is not None
    assert second.usage.input_tokens == whole.usage.prompt_tokens
    assert second.previous_response_id == first.id
    assert client.responses.retrieve(second.id).output_text == second.output_text


def test_what_is_not_stored_is_not_found(client: OpenAI) -> None:
    kept = client.responses.create(**COMMON, input=QUESTION)
    client.responses.delete(kept.id)
    unkept = client.responses.create(**COMMON, input=QUESTION, store=False)
    for response_id in (kept.id, unkept.id, "resp_unknown"):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response_id)
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**COMMON, input="x", previous_response_id=response_id)
        assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(kept.id)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_and_their_results(client: OpenAI, stream: bool) -> None:
    asked: Any = {**COMMON, "tools": [ADD], "tool_choice": "required", "input": QUESTION}
    asked["parallel_tool_calls"] = False
    if stream:
        with client.responses.stream(**asked) as events:
            answer: Any = events.until_done().get_final_response()
    else:
        answer = client.responses.create(**asked)
    [call] = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "add", "completed")
    assert json.loads(call.arguments)["a"] <= 99
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "19"}
    after = client.responses.create(**COMMON, input=[result], previous_response_id=answer.id)
    assert after.output[0].type == "message"


def test_parsed_forms(client: OpenAI) -> None:
    answer = client.responses.parse(**COMMON, input=QUESTION, text_format=Weather)
    assert isinstance(answer.output_parsed, Weather)


def test_logprobs_are_included_on_request(client: OpenAI) -> None:
    answer = client.responses.create(
        **COMMON, input=QUESTION, include=["message.output_text.logprobs"], top_logprobs=2
    )
    message: Any = answer.output[0]
    logprobs = message.content[0].logprobs
    assert "".join(entry.token for entry in logprobs) == answer.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs)


def test_refusals_name_the_responses_own_fields(torch_cluster: Cluster) -> None:
    for extra, param in (
        ({"input": []}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 9.0}, "temperature"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ):
        body = {**COMMON, "input": "hi", **extra}
        answer = httpx.post(f"{torch_cluster.url}/v1/responses", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
