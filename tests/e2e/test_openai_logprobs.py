"""Logprobs, sampling and stops as the official client asks for them, against torch workers."""

from __future__ import annotations

import math
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
COUNT: Any = [{"role": "user", "content": "Count from 1 to 30."}]


@pytest.fixture
def client(torch_cluster: Cluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{torch_cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_logprobs_of_a_chat_streamed_and_not(client: OpenAI) -> None:
    asked: Any = {**COMMON, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None
    assert whole.logprobs.content is not None
    assert "".join(entry.token for entry in whole.logprobs.content) == whole.message.content
    for entry in whole.logprobs.content:
        assert bytes(entry.bytes or []).decode() == entry.token
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token, "greedy takes the best"
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-5)
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0001
    streamed, texts = [], []
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts.append(choice.delta.content or "")
            if choice.logprobs and choice.logprobs.content:
                streamed += choice.logprobs.content
    assert streamed == whole.logprobs.content
    assert "".join(texts) == whole.message.content


def test_logprobs_are_not_changed_by_what_changes_the_choice(client: OpenAI) -> None:
    plain = client.chat.completions.create(**COMMON, logprobs=True).choices[0]
    other = client.chat.completions.create(
        **{**COMMON, "temperature": 0.2}, logprobs=True, seed=1, extra_body={"top_k": 1}
    ).choices[0]
    assert plain.logprobs is not None
    assert other.logprobs is not None
    assert [e.logprob for e in other.logprobs.content or []] == pytest.approx(
        [e.logprob for e in plain.logprobs.content or []], abs=1e-4
    )


def test_an_echo_with_logprobs_scores_the_prompt(client: OpenAI) -> None:
    text = "<|user|>What is 12 plus 7?<|end|><|assistant|>12 + 7 = 19"
    scored = client.completions.create(
        model=MODEL, prompt=text, max_tokens=0, echo=True, logprobs=1
    )
    [choice] = scored.choices
    assert choice.text == text
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert "".join(logprobs.tokens) == text
    assert len(logprobs.tokens) == scored.usage.prompt_tokens
    assert logprobs.token_logprobs[0] is None
    # The answer's tokens have the logprobs that they had when they were drawn.
    answer = client.chat.completions.create(**COMMON, logprobs=True).choices[0]
    assert answer.logprobs is not None
    drawn = [entry.logprob for entry in answer.logprobs.content or []]
    assert logprobs.token_logprobs[-len(drawn) :] == pytest.approx(drawn, abs=0.05)  # in bfloat16


def test_an_echo_streams_its_prompt_first(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": ["Hé", "Ho"], "echo": True, "logprobs": 0}
    whole = client.completions.create(**asked, max_tokens=4, temperature=0)
    assert whole.choices[0].text.startswith("Hé")
    texts, tokens = ["", ""], [[], []]  # type: ignore[var-annotated]
    for chunk in client.completions.create(**asked, max_tokens=4, temperature=0, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += (choice.logprobs.tokens or []) if choice.logprobs else []
    assert texts == [choice.text for choice in whole.choices]
    for found, choice in zip(tokens, whole.choices, strict=True):
        assert choice.logprobs is not None
        assert found == choice.logprobs.tokens


def test_the_best_of_several_has_the_best_logprobs(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "zq", "max_tokens": 6, "temperature": 1.5, "seed": 4}
    every = client.completions.create(**asked, n=6, logprobs=0)
    best = client.completions.create(**asked, n=2, best_of=6)

    def mean(choice: Any) -> float:
        values: list[float] = choice.logprobs.token_logprobs
        return sum(values) / len(values)

    assert best.usage is not None
    assert every.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens
    ordered = sorted((choice for choice in every.choices), key=mean, reverse=True)
    ended = [choice for choice in ordered if choice.finish_reason == "length"]
    assert [choice.index for choice in best.choices] == [0, 1]
    if len(ended) == len(ordered):  # where none has an end token, whose logprob is not shown
        assert [choice.text for choice in best.choices] == [c.text for c in ordered[:2]]


def test_a_bias_forbids_and_forces(client: OpenAI, torch_cluster: Cluster) -> None:
    def ids(text: str) -> list[int]:
        body = {"prompt": text, "add_special_tokens": False}
        return list(httpx.post(f"{torch_cluster.url}/tokenize", json=body).json()["tokens"])

    [nine] = ids("9")
    without = client.chat.completions.create(**COMMON, logit_bias={str(nine): -100})
    assert "9" not in (without.choices[0].message.content or "9")
    forced = client.chat.completions.create(**COMMON, logit_bias={str(nine): 100}, max_tokens=5)
    assert forced.choices[0].message.content == "99999"


def test_stops_by_text_and_token(client: OpenAI) -> None:
    def count(**extra: Any) -> Any:
        asked: Any = {"model": MODEL, "messages": COUNT, "temperature": 0, "extra_body": extra}
        return client.chat.completions.create(**asked).choices[0]

    shown = count(stop=[", 3"], include_stop_str_in_output=True)
    assert (shown.message.content, shown.finish_reason) == ("1, 2, 3", "stop")
    later = count(stop=[", "], min_tokens=8)
    assert later.message.content == "1, 2, 3"  # eight tokens are "1, 2, 3,"
    comma = count(stop_token_ids=[ord(",") + 8])
    assert comma.finish_reason == "stop"
    assert comma.message.content == "1"


def test_a_minimal_length_is_kept(client: OpenAI) -> None:
    answer = client.chat.completions.create(**COMMON, extra_body={"min_tokens": 40}, max_tokens=50)
    assert answer.usage is not None
    assert answer.usage.completion_tokens >= 40
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**COMMON, max_tokens=5, extra_body={"min_tokens": 6})
    assert caught.value.param == "min_tokens"


def test_a_seed_has_a_fingerprint(client: OpenAI) -> None:
    answers = [client.chat.completions.create(**COMMON, seed=5) for _ in range(2)]
    assert answers[0].system_fingerprint == answers[1].system_fingerprint
    assert (answers[0].system_fingerprint or "").startswith("fp_")


def test_what_openai_ignores_is_ignored(client: OpenAI) -> None:
    plain = client.chat.completions.create(**COMMON)
    asked = client.chat.completions.create(
        **COMMON,
        user="me",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        reasoning_effort="low",
        extra_body={"priority": 3, "nobody_knows_this": [1]},
    )
    assert asked.choices[0].message.content == plain.choices[0].message.content
