"""The official client, unmodified, against torch workers with the model that ships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.cluster import Cluster

MODEL = "rondo-tiny"
QUESTION: Any = [{"role": "user", "content": "What is 12 plus 7?"}]
COUNT: Any = [{"role": "user", "content": "Count from 1 to 30."}]
THIRTY = ", ".join(str(number) for number in range(1, 31))


@pytest.fixture
def client(torch_cluster: Cluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{torch_cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "rondo"


def test_a_chat_gets_a_right_answer_that_ends_by_itself(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    [choice] = answer.choices
    assert "19" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_has_the_same_text_piece_by_piece(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=COUNT, temperature=0)
    pieces, finishes, usage = [], [], None
    stream = client.chat.completions.create(
        model=MODEL,
        messages=COUNT,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finishes.append(choice.finish_reason)
    assert "".join(pieces) == whole.choices[0].message.content == THIRTY
    assert len([piece for piece in pieces if piece]) > 20
    assert finishes[-1] == "stop"
    assert usage == whole.usage


def test_completions_streaming_and_not(client: OpenAI) -> None:
    prompt = "<|user|>Spell the word planet.<|end|><|assistant|>"
    whole = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=40)
    stream = client.completions.create(
        model=MODEL, prompt=prompt, temperature=0, max_tokens=40, stream=True
    )
    text = "".join(choice.text for chunk in stream for choice in chunk.choices)
    assert text == whole.choices[0].text
    assert text


def test_several_prompts_and_choices_come_in_order(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["Hello", "Bye"], n=2, max_tokens=5, seed=3, temperature=1.0
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = client.completions.create(
        model=MODEL, prompt="Bye", n=2, max_tokens=5, seed=3, temperature=1.0
    )
    assert [c.text for c in answer.choices[2:]] == [c.text for c in alone.choices]


def test_streamed_choices_are_kept_apart(client: OpenAI) -> None:
    options: Any = {"model": MODEL, "messages": QUESTION, "n": 3, "seed": 9, "temperature": 1.5}
    whole = client.chat.completions.create(**options, max_tokens=30)
    texts = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(**options, max_tokens=30, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert list(texts.values()) == [choice.message.content for choice in whole.choices]


def test_a_seed_is_reproducible_and_seeds_differ(client: OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = client.completions.create(  # no question, so the model is not sure of itself
            model=MODEL, prompt="zq", temperature=2.0, seed=seed, max_tokens=40
        )
        return answer.choices[0].text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_limits_and_stop_strings_end_an_answer(client: OpenAI) -> None:
    short = client.chat.completions.create(
        model=MODEL, messages=COUNT, temperature=0, max_completion_tokens=7
    )
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 7
    stopped = client.chat.completions.create(
        model=MODEL, messages=COUNT, temperature=0, stop=[", 12", "never"]
    )
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == ", ".join(str(n) for n in range(1, 12))


def test_ignore_eos_goes_on_to_the_limit(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=60,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60
    assert answer.choices[0].finish_reason == "length"


def test_penalties_and_filters_are_taken(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=COUNT,
        temperature=0.7,
        top_p=0.9,
        presence_penalty=1.0,
        frequency_penalty=1.0,
        seed=5,
        max_tokens=50,
        extra_body={"top_k": 20, "min_p": 0.01},
    )
    assert answer.choices[0].message.content != THIRTY


def test_a_second_turn_knows_the_first(client: OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "You are a helpful assistant."},
        *QUESTION,
        {"role": "assistant", "content": "12 + 7 = 19"},
        *COUNT,
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    assert answer.choices[0].message.content == THIRTY


def test_errors_are_the_clients_own_exceptions(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=3.0)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model=MODEL, messages=[])
    with pytest.raises(openai.BadRequestError, match="prompt"):
        client.completions.create(model=MODEL, prompt=[])
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.completions.create(model=MODEL, prompt="")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=100_000)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.completions.create(model=MODEL, prompt="a" * 20_000)
    with pytest.raises(openai.APIStatusError) as too_large:
        client.completions.create(model=MODEL, prompt="a" * 5_000_000)
    assert too_large.value.status_code == 413


def test_health_readiness_and_metrics(torch_cluster: Cluster) -> None:
    for path in ("/healthz", "/readyz", "/health"):
        assert httpx.get(torch_cluster.url + path).status_code == 200
    assert torch_cluster.metric("gateway", "rondo_requests_total") > 0
    assert torch_cluster.metric("gateway", "rondo_live_answers") == 0
    assert torch_cluster.metric("coordinator", "rondo_admitted_requests_total") > 0
    assert torch_cluster.metric("coordinator", "rondo_prediction_error_seconds_count") > 0
    assert torch_cluster.metric("worker-0", "rondo_step_seconds_count") >= 0
