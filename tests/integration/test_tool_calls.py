"""Tools from the body to the prompt, and from a model's words to calls, with OpenAI's client.

The model is played: it says what the test wrote.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

import rondo
from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.types import FinishReason
from rondo.wire import messages as m
from rondo.wire.codec import unpack_tokens
from rondo_gateway.app import Api, create_app
from rondo_gateway.text.chat_template import ChatTemplate
from rondo_gateway.text.model_files import ModelFiles
from tests.support.peer import peer_on
from tests.support.services import MODEL

TINY = Path(rondo.__file__).parent / "models" / "rondo-tiny"
EOS = 2
#: As the families' own: the tools first, then the messages; the mark tells the family.
TEMPLATE = (
    "{% if tools %}MARK{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }} {{ c.function.arguments | tojson }})"
    "{% endfor %}{% endfor %}"
)
MARKS = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "llama3_json": "<|python_tag|>"}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
QUESTION: Any = [{"role": "user", "content": "Weather?"}]
CALL = {"city": 'Zürich "{'}


def said(kind: str) -> str:
    """Two calls in a family's words."""
    key = "parameters" if kind == "llama3_json" else "arguments"
    call = json.dumps({"name": "get_weather", key: CALL}, ensure_ascii=False)
    return {
        "hermes": f"Let me see.\n<tool_call>\n{call}\n</tool_call>\n<tool_call>{call}</tool_call>",
        "mistral": f"[TOOL_CALLS][{call}, {call}]",
        "llama3_json": f"{call}; {call}",
    }[kind]


@dataclass
class PlayedModel:
    """Answers every prompt with `says`, a few tokens at a time."""

    bus: Bus
    files: ModelFiles
    says: str = ""
    runs: list[m.Run] = field(default_factory=list)
    frames: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def on_run(self, incoming: Incoming) -> None:
        if isinstance(incoming.message, m.Run):
            self.runs.append(incoming.message)
            self.tasks.append(asyncio.create_task(self._answer(incoming.message)))

    async def _answer(self, run: m.Run) -> None:
        ids = [*self.files.tokenizer.encode(self.says, add_special_tokens=False).ids, EOS]
        for begin in range(0, len(ids), 3):
            part = tuple(ids[begin : begin + 3])
            finish = FinishReason.STOP if begin + 3 >= len(ids) else None
            delta = m.TokenDelta(run.request_id, begin, part, finish)
            frame = m.TokenFrame(
                instance_id="w0", incarnation="a", seq=self.frames, deltas=(delta,)
            )
            self.frames += 1
            await self.bus.publish(subjects.tokens("g0"), frame)

    def prompt(self) -> str:
        """The last prompt as text."""
        ids = unpack_tokens(self.runs[-1].prompt)
        return str(self.files.tokenizer.decode(ids, skip_special_tokens=False))


Stage = tuple[AsyncOpenAI, PlayedModel]
MakeStage = Callable[[str], Any]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeStage]:
    """A gateway with a model of a family, OpenAI's client, and the model's part."""
    async with peer_on("memory", tmp_path) as peer:

        async def build(kind: str) -> Stage:
            files = ModelFiles.load(MODEL, TINY)
            template = ChatTemplate(TEMPLATE.replace("MARK", MARKS[kind]), files.special_tokens)
            files = dataclasses.replace(files, chat_template=template)
            gateway = peer.gateway
            api = Api(gateway.links, {MODEL: files}, gateway.directory, gateway.registry)
            http: Any = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=create_app(api, 2**20)), base_url="http://test"
            )
            played = PlayedModel(peer.bus, files)
            await peer.bus.subscribe(subjects.run("w0"), played.on_run)
            client = AsyncOpenAI(
                base_url="http://test/v1", api_key="-", http_client=http, max_retries=0
            )
            return client, played

        yield build


@pytest.mark.parametrize("kind", MARKS)
async def test_calls_of_a_model_that_chose(make: MakeStage, kind: str) -> None:
    client, model = await make(kind)
    model.says = said(kind)
    answer = await client.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=[WEATHER], temperature=0
    )
    [choice] = answer.choices
    assert json.dumps(WEATHER) in model.prompt()
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == ("Let me see." if kind == "hermes" else None)
    calls = choice.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [CALL, CALL]
    assert len({call.id for call in calls}) == 2
    assert model.runs[-1].sampling.grammar == "", "a model that may choose is free"


@pytest.mark.parametrize("kind", MARKS)
async def test_streamed_calls_are_those_of_the_whole_answer(make: MakeStage, kind: str) -> None:
    client, model = await make(kind)
    model.says = said(kind)
    text, names, arguments, finish = "", ["", ""], ["", ""], None
    async for chunk in await client.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=[WEATHER], stream=True
    ):
        [choice] = chunk.choices
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
        for part in choice.delta.tool_calls or []:
            names[part.index] += part.function.name or ""
            arguments[part.index] += part.function.arguments or ""
    assert (text, finish) == ("Let me see." if kind == "hermes" else "", "tool_calls")
    assert names == ["get_weather"] * 2
    assert [json.loads(one) for one in arguments] == [CALL, CALL]


async def test_one_call_where_several_are_not_wanted(make: MakeStage) -> None:
    client, model = await make("hermes")
    model.says = said("hermes")
    answer = await client.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=[WEATHER], parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or []) == 1


async def test_what_is_no_call_of_a_given_tool_is_text(make: MakeStage) -> None:
    client, model = await make("hermes")
    model.says = said("hermes").replace("get_weather", "rm_rf")
    answer = await client.chat.completions.create(model=MODEL, messages=QUESTION, tools=[WEATHER])
    assert answer.choices[0].message.content == model.says
    assert answer.choices[0].finish_reason == "stop"
    model.says = said("hermes")
    answer = await client.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=[WEATHER], tool_choice="none"
    )
    assert answer.choices[0].message.content == model.says
    assert "get_weather" not in model.prompt()


async def test_forced_calls_have_a_grammar_and_history_is_shown(make: MakeStage) -> None:
    client, model = await make("hermes")
    model.says = said("hermes").removeprefix("Let me see.\n")
    call = {"id": "c1", "type": "function"}
    history: Any = [
        *QUESTION,
        {
            "role": "assistant",
            "tool_calls": [{**call, "function": {"name": "get_weather", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    answer = await client.chat.completions.create(
        model=MODEL, messages=history, tools=[WEATHER], tool_choice="required"
    )
    assert "get_weather" in model.runs[-1].sampling.grammar
    assert '(get_weather {"a": 1})' in model.prompt()
    assert "[tool]rain" in model.prompt()
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_what_an_engine_refuses_is_a_400_under_the_clients_name(make: MakeStage) -> None:
    client, model = await make("hermes")

    async def refuse(run: m.Run) -> None:
        delta = m.TokenDelta(
            run.request_id, 0, (), FinishReason.ERROR, "no grammars", refused="grammar"
        )
        frame = m.TokenFrame(instance_id="w0", incarnation="a", seq=0, deltas=(delta,))
        await model.bus.publish(subjects.tokens("g0"), frame)

    model._answer = refuse
    with pytest.raises(openai.BadRequestError, match="no grammars") as caught:
        await client.chat.completions.create(
            model=MODEL, messages=QUESTION, extra_body={"guided_choice": ["a"]}, stream=True
        )
    assert (caught.value.param, caught.value.code) == ("guided_choice", "unsupported_parameter")
