"""A cluster whose workers plan their KV ahead, and have little: one dies, and nothing is lost."""

from __future__ import annotations

import os
import signal
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx

from tests.support.cluster import Cluster, running

#: Answers of 30 to 150 tokens.
QUESTIONS = tuple(
    f"Count from {first} to {first + length}."
    for first, length in ((1, 12), (30, 40), (50, 20), (3, 30), (12, 45), (70, 10))
)
#: Of 16 tokens each: about two of the longest answers.
NUM_BLOCKS = 28


def ask(cluster: Cluster, question: str) -> str:
    """The whole answer."""
    body: dict[str, Any] = {
        "model": "rondo-tiny",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 250,
    }
    response = httpx.post(f"{cluster.url}/v1/chat/completions", json=body, timeout=90)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_answers_stay_the_same_and_outlive_a_worker(tmp_path: Path) -> None:
    settings = {
        "RONDO_INSTANCE_POLICY": "econoserve",
        "RONDO_NUM_BLOCKS": str(NUM_BLOCKS),
        "RONDO_DTYPE": "float32",
        # Nobody is refused: they shall wait for KV, however slow the machine is.
        "RONDO_SLO_TTFT_MS": "60000",
        "RONDO_SLO_TPOT_MS": "5000",
    }
    with running(tmp_path, "--workers", "2", **settings) as cluster:
        alone = {question: ask(cluster, question) for question in QUESTIONS}
        assert alone[QUESTIONS[0]].startswith("1")
        victim = cluster.pid_of(cluster.status()["instances"][0]["instance_id"])
        with ThreadPoolExecutor(24) as pool:
            asked = [(q, pool.submit(ask, cluster, q)) for q in QUESTIONS * 8]
            wait((answer for _, answer in asked), 90, FIRST_COMPLETED)
            os.kill(victim, signal.SIGKILL)  # Both have plenty to do.
            for question, answer in asked:
                assert answer.result(90) == alone[question]
        assert cluster.metric("gateway", "rondo_resumed_answers_total") >= 1
