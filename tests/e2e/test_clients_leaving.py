"""A client that goes away stops its request on the worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.cluster import FAST_PROFILE, Cluster, eventually, running

BODY: dict[str, Any] = {
    "model": "rondo-tiny",
    "prompt": "abc",
    "max_tokens": 400,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def slow_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One emulated worker with decode steps of 50 ms: an answer of 400 tokens takes 20 s."""
    folder = tmp_path_factory.mktemp("slow")
    profile = folder / "slow.json"
    profile.write_text(json.dumps({**FAST_PROFILE, "decode_ms": [50.0, 0.0, 0.0]}))
    options = ("--engine", "emulated", "--workers", "1", "--profile", str(profile))
    with running(folder / "run", *options) as cluster:
        yield cluster


def instance(cluster: Cluster) -> dict[str, Any]:
    [only] = cluster.status()["instances"]
    assert isinstance(only, dict)
    return only


def is_empty(cluster: Cluster) -> bool:
    state = instance(cluster)
    return bool(state["num_running"] == state["num_waiting"] == state["kv"]["used_blocks"] == 0)


def test_closing_a_stream_frees_the_worker(slow_cluster: Cluster) -> None:
    url = f"{slow_cluster.url}/v1/completions"
    with httpx.stream("POST", url, json={**BODY, "stream": True}, timeout=30) as response:
        lines = response.iter_lines()
        for _ in range(3):
            next(lines)
        eventually(lambda: instance(slow_cluster)["num_running"] == 1, "it runs")
    eventually(lambda: is_empty(slow_cluster), "the worker is empty", timeout_s=5)
    assert slow_cluster.metric("worker-0", "rondo_tokens_total") < 150
    assert slow_cluster.metric("gateway", "rondo_live_answers") == 0


def test_giving_up_a_whole_answer_frees_the_worker(slow_cluster: Cluster) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{slow_cluster.url}/v1/completions", json={**BODY, "n": 3}, timeout=1.0)
    eventually(lambda: is_empty(slow_cluster), "the worker is empty", timeout_s=5)
    eventually(lambda: slow_cluster.metric("gateway", "rondo_live_answers") == 0, "no answer")


def test_a_stop_string_ends_the_work_too(slow_cluster: Cluster) -> None:
    url = f"{slow_cluster.url}/v1/completions"
    text = httpx.post(url, json={**BODY, "max_tokens": 12}, timeout=30).json()["choices"][0]["text"]
    answer = httpx.post(url, json={**BODY, "stop": text[5:8]}, timeout=30).json()["choices"][0]
    assert answer["finish_reason"] == "stop"
    assert answer["text"] == text[: text.index(text[5:8])]
    eventually(lambda: is_empty(slow_cluster), "the worker is empty", timeout_s=5)
