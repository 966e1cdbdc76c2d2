"""Embeddings with the official client, from workers that compute them and from others."""

from __future__ import annotations

import base64
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import OpenAI
from tokenizers import Tokenizer
from transformers import AutoModel

import rondo
from tests.support.batches import read, upload
from tests.support.cluster import Cluster, eventually

MODEL = "rondo-tiny"
TINY = Path(rondo.__file__).parent / "models" / "rondo-tiny"
TEXTS = ["What is 12 plus 7?", "What is 12 plus 8?", "Zürich 👍🏽", "x" * 700]


def encoded(text: str) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(text).ids
    return ids


@torch.no_grad()
def expected(text: str) -> list[float]:
    model = AutoModel.from_pretrained(TINY, dtype=torch.float32)
    states = model(torch.tensor([encoded(text)])).last_hidden_state
    vector: list[float] = torch.nn.functional.normalize(states[0, -1], dim=-1).tolist()
    return vector


def distance(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_several_inputs_in_order_with_usage(client: OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert (answer.object, answer.model) == ("list", MODEL)
    assert [(item.object, item.index) for item in answer.data] == [
        ("embedding", index) for index in range(len(TEXTS))
    ]
    count = sum(len(encoded(text)) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)
    for item, text in zip(answer.data, TEXTS, strict=True):
        assert math.hypot(*item.embedding) == pytest.approx(1.0, abs=1e-3)
        # Workers compute in bfloat16 where the machine multiplies it itself.
        assert distance(item.embedding, expected(text)) < 0.05


def test_every_form_of_input_and_of_output_is_the_same_vector(
    client: OpenAI, torch_cluster: Cluster
) -> None:
    text, ids = TEXTS[0], encoded(TEXTS[0])
    forms: list[Any] = [text, [text], ids, [ids]]
    asked: list[Any] = [{"encoding_format": "float"}, {"encoding_format": "base64"}, {}]
    vectors = [
        client.embeddings.create(model=MODEL, input=form, **extra).data[0].embedding
        for form in forms
        for extra in asked
    ]
    for index in (0, 2, 3, 5):  # the client decodes what it asked for by itself, base64
        assert isinstance(vectors[index], list)
    plain = vectors[0]
    for index, vector in enumerate(vectors):
        if index % 3 == 1:  # as it came
            data = base64.b64decode(str(vector))
            vector = list(struct.unpack(f"<{len(data) // 4}f", data))
        assert distance(vector, plain) < 2e-2
    body = {"model": MODEL, "input": text}
    raw = httpx.post(f"{torch_cluster.url}/v1/embeddings", json=body, timeout=30).json()
    assert distance(raw["data"][0]["embedding"], plain) < 2e-2


def test_more_inputs_than_are_computed_at_a_time_beside_answers(client: OpenAI) -> None:
    texts = [f"number {index}" for index in range(300)]

    def ask(seed: int) -> str | None:
        question: Any = [{"role": "user", "content": f"What is {seed} plus 7?"}]
        asked = client.chat.completions.create(model=MODEL, messages=question, temperature=0)
        return asked.choices[0].message.content

    alone = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(5) as pool:
        embedding = pool.submit(client.embeddings.create, model=MODEL, input=texts)
        beside = [pool.submit(ask, seed) for seed in range(4)]
        answer = embedding.result()
    assert [one.result() for one in beside] == alone
    assert [item.index for item in answer.data] == list(range(300))
    assert len({tuple(item.embedding) for item in answer.data}) > 250


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"dimensions": 8}, "dimensions"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [10**6]}, "input"),
        ({"input": "x" * 1024}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"slo": "fast"}, "slo"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client: OpenAI, extra: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="a", extra_body=extra)
    assert caught.value.param == param


def test_an_unknown_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-9", input="a")
    assert caught.value.param == "model"


def test_an_engine_without_embeddings_says_so(emulated_cluster: Cluster) -> None:
    with (
        OpenAI(base_url=f"{emulated_cluster.url}/v1", api_key="-", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="emulated") as caught,
    ):
        client.embeddings.create(model=MODEL, input=["a", "b"])
    assert (caught.value.param, caught.value.code) == ("model", "unsupported_parameter")


def test_lines_of_a_batch(client: OpenAI) -> None:
    lines = [
        {
            "custom_id": f"line-{index}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": MODEL, "input": text},
        }
        for index, text in enumerate(TEXTS)
    ]
    batch = client.batches.create(
        input_file_id=upload(client, lines), endpoint="/v1/embeddings", completion_window="24h"
    )

    def completed() -> bool:
        status = client.batches.retrieve(batch.id).status
        assert status in ("validating", "in_progress", "finalizing", "completed")
        return status == "completed"

    eventually(completed, "the batch is complete", 60.0)
    output = client.batches.retrieve(batch.id).output_file_id
    assert output is not None
    answers = read(client, output)
    assert {one["custom_id"] for one in answers} == {f"line-{i}" for i in range(len(TEXTS))}
    for one in answers:
        text = TEXTS[int(one["custom_id"].rpartition("-")[2])]
        [item] = one["response"]["body"]["data"]
        assert distance(item["embedding"], expected(text)) < 0.05
