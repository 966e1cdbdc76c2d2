"""A cluster of two pipeline workers under TD-Pipe: batches, people, and a stage that dies."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Batch

from tests.support.batches import chat_body, chat_line, read, submit, wait
from tests.support.cluster import Cluster, running

LONG = {"ignore_eos": True}
SETTINGS = {
    "RONDO_PIPELINE_PARALLEL": "2",
    "RONDO_PIPELINE_POLICY": "tdpipe",
    "RONDO_NUM_BLOCKS": "400",
    "RONDO_THREADS": "1",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("pipeline")
    with running(folder, "--engine", "pipeline", "--workers", "2", **SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> OpenAI:
    return OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=4)


def texts(client: OpenAI, batch: Batch) -> dict[str, str]:
    """The answers by line, once all are there."""
    found = wait(client, batch)
    assert (found.status, read(client, found.error_file_id)) == ("completed", [])
    assert found.output_file_id
    rows = read(client, found.output_file_id)
    answers = {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in rows
    }
    assert len(answers) == len(rows), "a line was answered twice"
    return answers


def ask(client: OpenAI, body: dict[str, Any]) -> str:
    answer = client.chat.completions.create(**body)
    assert isinstance(text := answer.choices[0].message.content, str)
    return text


def stages(worker: int) -> list[int]:
    """The stage processes of a worker: children of a child of it."""
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(row.split()[0]): int(row.split()[1]) for row in listing.splitlines()}
    return [pid for pid, parent in parents.items() if parents.get(parent) == worker]


def test_lines_and_people_are_answered_alike(cluster: Cluster, client: OpenAI) -> None:
    batch = submit(client, [chat_line(index) for index in range(60)])
    online = {index: ask(client, chat_body(index)) for index in range(0, 60, 6)}
    answers = texts(client, batch)
    assert len(answers) == 60
    assert {f"line-{index}": text for index, text in online.items()}.items() <= answers.items()
    assert cluster.metric("worker", "rondo_background_tokens_total") > 0
    assert cluster.metric("worker", "rondo_turn_prompts_count") > 0


def test_a_stage_that_dies_costs_no_line(cluster: Cluster, client: OpenAI) -> None:
    [*_, instance] = cluster.status()["instances"]
    victim = cluster.pid_of(instance["instance_id"])
    found = stages(victim)
    assert len(found) == 2
    batch = submit(client, [chat_line(index, max_tokens=200, **LONG) for index in range(80)])
    first = chat_body(0, max_tokens=200)
    answer = client.chat.completions.create(**first, stream=True, extra_body=LONG)
    pieces = [next(answer).choices[0].delta.content or "" for _ in range(3)]
    os.kill(found[1], signal.SIGKILL)
    pieces += [part.choices[0].delta.content or "" for part in answer if part.choices]
    answers = texts(client, batch)
    assert len(answers) == 80
    assert "".join(pieces) == answers["line-0"] == ask(client, {**first, "extra_body": LONG})
    assert victim not in cluster.children(), "it has ended"
