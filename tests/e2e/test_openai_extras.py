"""What Rondo adds to the API, and that streamed and whole answers have the same text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.cluster import Cluster

MODEL = "rondo-tiny"
QUESTION: Any = [{"role": "user", "content": "What is 12 plus 7?"}]
COMMON: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0}


@pytest.fixture
def client(torch_cluster: Cluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{torch_cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_request_ids_objectives_and_the_ledger(torch_cluster: Cluster) -> None:
    url = f"{torch_cluster.url}/v1/chat/completions"
    body = {**COMMON, "slo": {"class": "interactive", "tpot_ms": 500}, "include_latency": True}
    answer = httpx.post(url, json=body, headers={"x-request-id": "mine-1"}, timeout=30)
    assert answer.headers["x-request-id"] == "mine-1"
    ledger = answer.json()["usage"]["latency"]
    parts = ("gateway_ms", "queue_ms", "wait_ms", "prefill_ms", "bus_ms")
    assert sum(ledger[part] for part in parts) == pytest.approx(ledger["ttft_ms"], abs=3.0)
    assert ledger["decode_ms"] > ledger["tpot_ms"] > 0
    assert "decode;dur=" in answer.headers["server-timing"]
    other = httpx.get(f"{torch_cluster.url}/v1/models", headers={"x-request-id": "x" * 200})
    assert other.headers["x-request-id"].startswith("req_")
    for headers, extra, param in (({"x-slo": "fast"}, {}, "x-slo"), ({}, {"slo": "fast"}, "slo")):
        refused = httpx.post(url, json={**COMMON, **extra}, headers=headers)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_the_ledger_of_a_stream_and_usage_all_along(client: OpenAI) -> None:
    options: Any = {
        "include_usage": True,
        "continuous_usage_stats": True,
        "include_latency": True,
    }
    # A long answer: a busy gateway joins tokens that came together.
    asked: Any = {**COMMON, "messages": [{"role": "user", "content": "Count from 1 to 12."}]}
    used = [
        chunk.usage
        for chunk in client.chat.completions.create(**asked, stream=True, stream_options=options)
    ]
    counts = [usage.completion_tokens for usage in used if usage is not None]
    assert counts == sorted(counts)
    assert len(counts) > 5
    assert used[-1] is not None
    assert used[-1].model_dump()["latency"]["ttft_ms"] > 0


def test_tokenize_and_detokenize(torch_cluster: Cluster) -> None:
    def post(path: str, body: Any) -> Any:
        return httpx.post(torch_cluster.url + path, json=body)

    text = "Zürich 👍🏽"
    made = post("/tokenize", {"model": MODEL, "prompt": text, "return_token_strs": True}).json()
    assert made["count"] == len(made["tokens"]) == len(made["token_strs"]) == len(text.encode())
    assert made["max_model_len"] == 1024
    assert post("/detokenize", {"tokens": made["tokens"]}).json() == {"prompt": text}
    chat = post("/tokenize", {"messages": QUESTION}).json()
    rendered = post("/detokenize", {"tokens": chat["tokens"]}).json()["prompt"]
    assert rendered.endswith("<|assistant|>")
    for path, body, param in (
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/tokenize", {"model": "gpt-9", "prompt": "x"}, "model"),
    ):
        refused = post(path, body)
        assert refused.status_code in (400, 404)
        assert refused.json()["error"]["param"] == param
    assert post("/tokenize", {}).status_code == 400


def test_an_engine_without_probabilities_says_so(emulated_cluster: Cluster) -> None:
    with OpenAI(base_url=f"{emulated_cluster.url}/v1", api_key="-", max_retries=0) as client:
        for stream in (False, True):
            for extra, param in (
                ({"logprobs": True}, "logprobs"),
                ({"guided_regex": "a"}, "guided_regex"),
                ({"response_format": {"type": "json_object"}}, "response_format"),
            ):
                with pytest.raises(openai.BadRequestError, match="emulated") as caught:
                    client.chat.completions.create(**COMMON, stream=stream, extra_body=extra)
                assert caught.value.param == param


def test_random_prompts_give_the_same_text_streamed_and_not(client: OpenAI) -> None:
    """100 prompts of any characters, drawn at a high temperature: all kinds of bytes come out."""
    dice = random.Random(11)
    alphabet = "abc XYZ,.\n<|>éß漢字👍🏽👨‍👩‍👧e\u0301\u200d🇨🇭"
    for number in range(50):
        prompts = ["".join(dice.choices(alphabet, k=dice.randint(1, 30))) for _ in range(2)]
        asked: Any = {
            "model": MODEL,
            "prompt": prompts,
            "max_tokens": dice.randint(1, 24),
            "temperature": 2.0,
            "seed": number,
        }
        whole = [choice.text for choice in client.completions.create(**asked).choices]
        texts = ["", ""]
        for chunk in client.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        assert texts == whole, prompts
