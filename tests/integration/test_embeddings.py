"""The gateway's side of embeddings, against a worker that is played: what it asks for, and what
it does when a vector is late, missing, refused, or on an instance that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import rondo
from rondo.bus import subjects
from rondo.bus.protocol import Incoming
from rondo.types import FinishReason
from rondo.wire import messages as m
from rondo.wire.codec import pack_floats, unpack_tokens
from rondo_gateway.app import Api, create_app
from rondo_gateway.embeddings.run import MAX_AT_ONCE
from rondo_gateway.text.model_files import ModelFiles
from tests.support.collect import eventually
from tests.support.peer import Peer, peer_on
from tests.support.services import MODEL

TINY = Path(rondo.__file__).parent / "models" / "rondo-tiny"


@dataclass
class PlayedWorker:
    """Answers each prompt with a vector of its ids, if it is not `mute`."""

    peer: Peer
    mute: bool = False
    hand_back: int = 0
    """So many prompts more are handed back: they are not done here."""
    say: dict[str, Any] = field(default_factory=dict)
    """Instead of what belongs into each delta."""
    runs: list[m.Run] = field(default_factory=list)
    most_open: int = 0
    num_open: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def on_run(self, incoming: Incoming) -> None:
        if isinstance(incoming.message, m.Run):
            self.runs.append(incoming.message)
            self.num_open += 1
            self.most_open = max(self.most_open, self.num_open)
            self.tasks.append(asyncio.create_task(self._answer(incoming.message)))

    async def _answer(self, run: m.Run) -> None:
        if self.mute:
            return
        await asyncio.sleep(0.005)
        self.num_open -= 1
        if self.hand_back:
            self.hand_back -= 1
            delta: dict[str, Any] = {"tokens": (), "finish": FinishReason.CANCELLED}
        else:
            vector = pack_floats(unpack_tokens(run.prompt))
            first = m.FirstToken(0.1, 0.2, None, vector)
            delta = {"tokens": (7,), "finish": FinishReason.LENGTH, "first": first, **self.say}
        frame = m.TokenFrame(
            instance_id="w0",
            incarnation="a",
            seq=self.peer.next_seq,
            deltas=(m.TokenDelta(run.request_id, 0, **delta),),
        )
        self.peer.next_seq += 1
        await self.peer.bus.publish(subjects.tokens("g0"), frame)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[PlayedWorker]:
    async with peer_on("memory", tmp_path, max_attempts=3) as peer:
        played = PlayedWorker(peer)
        await peer.bus.subscribe(subjects.run("w0"), played.on_run)
        yield played


@pytest.fixture
async def client(worker: PlayedWorker) -> AsyncIterator[httpx.AsyncClient]:
    gateway = worker.peer.gateway
    files = ModelFiles.load(MODEL, TINY)
    api = Api(gateway.links, {MODEL: files}, gateway.directory, gateway.registry)
    transport = httpx.ASGITransport(create_app(api, 2**20), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": MODEL, **body}, timeout=20)


async def test_an_input_is_a_prompt_that_ends_with_its_prefill(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    answer = await ask(client, input=[[5, 6, 7], [8]], slo={"ttft_ms": 400})
    assert answer.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [5.0, 6.0, 7.0]},
            {"object": "embedding", "index": 1, "embedding": [8.0]},
        ],
        "model": MODEL,
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    assert "prefill;dur=200" in answer.headers["server-timing"]
    for run in worker.runs:
        assert (run.max_tokens, run.ignore_eos, run.sampling.embed) == (1, True, True)
        assert (run.slo.ttft_s, run.background) == (0.4, False)


async def test_text_as_completions_encode_it_and_truncation(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    await ask(client, input="abcdef", truncate_prompt_tokens=2)
    whole = (await client.post("/tokenize", json={"prompt": "abcdef"})).json()["tokens"]
    assert unpack_tokens(worker.runs[0].prompt) == whole[-2:]


async def test_no_more_than_so_many_at_a_time(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    inputs = [[1 + index % 200] for index in range(5 * MAX_AT_ONCE)]
    answer = (await ask(client, input=inputs)).json()
    assert [item["embedding"] for item in answer["data"]] == [[float(ids[0])] for ids in inputs]
    assert worker.most_open == MAX_AT_ONCE
    refused = await ask(client, input=[[1]] * 2049)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")


async def test_another_instance_computes_what_one_handed_back(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    worker.hand_back = 2
    answer = (await ask(client, input=[[5, 6], [7], [8]])).json()
    assert [item["embedding"] for item in answer["data"]] == [[5.0, 6.0], [7.0], [8.0]]
    assert len(worker.runs) == 5


async def test_a_worker_that_knows_no_embeddings_is_not_believed(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    worker.say = {"first": m.FirstToken(0.1, 0.2)}
    answer = await ask(client, input="a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")


async def test_a_refusal_names_the_model(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    worker.say = {
        "tokens": (),
        "first": None,
        "finish": FinishReason.ERROR,
        "error": "the vLLM engine computes no embeddings",
        "refused": "embed",
    }
    answer = await ask(client, input=["a", "b"])
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "model")
    assert "vLLM engine computes no embeddings" in error["message"]


async def test_a_client_that_goes_takes_its_inputs_along(
    client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    worker.mute = True
    asking = asyncio.create_task(ask(client, input=[[5], [6], [7]]))
    await eventually(lambda: len(worker.runs) == 3, "all prompts came")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: worker.peer.cancels() == (3, 3), "everybody was told")
