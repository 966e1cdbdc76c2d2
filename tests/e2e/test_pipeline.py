"""A cluster of two pipeline workers under TD-Pipe: batches, people, and a stage that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Batch

from tests.support.cluster import Cluster, eventually, running

MODEL = "rondo-tiny"
OVER = ("completed", "failed", "cancelled", "expired")
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


def question(index: int, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"What is {index} plus 7?"}
    return {"model": MODEL, "messages": [message], "temperature": 0, **more}


def submit(client: OpenAI, bodies: list[dict[str, Any]]) -> Batch:
    url = "/v1/chat/completions"
    lines = [
        {"custom_id": f"line-{index}", "method": "POST", "url": url, "body": body}
        for index, body in enumerate(bodies)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def texts(client: OpenAI, batch: Batch) -> dict[str, str]:
    """The answers by line, once all are there."""

    def over() -> Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status in OVER else None

    found: Batch = eventually(over, "the batch is over", 120.0)
    failed = client.files.content(found.error_file_id).text if found.error_file_id else ""
    assert (found.status, failed) == ("completed", "")
    assert found.output_file_id
    rows = [json.loads(row) for row in client.files.content(found.output_file_id).text.splitlines()]
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
    batch = submit(client, [question(index) for index in range(60)])
    online = {index: ask(client, question(index)) for index in range(0, 60, 6)}
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
    bodies = [question(index, max_tokens=200) for index in range(80)]
    batch = submit(client, [{**body, **LONG} for body in bodies])
    answer = client.chat.completions.create(**bodies[0], stream=True, extra_body=LONG)
    pieces = [next(answer).choices[0].delta.content or "" for _ in range(3)]
    os.kill(found[1], signal.SIGKILL)
    pieces += [part.choices[0].delta.content or "" for part in answer if part.choices]
    answers = texts(client, batch)
    assert len(answers) == 80
    assert "".join(pieces) == answers["line-0"] == ask(client, {**bodies[0], "extra_body": LONG})
    assert victim not in cluster.children(), "it has ended"
