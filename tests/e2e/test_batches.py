"""Files and batches with the official client: every line once, whatever dies on the way."""

from __future__ import annotations

import io
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.support.batches import CHAT, MODEL, WAIT_S, chat_line, read, submit, upload, wait
from tests.support.cluster import Cluster, eventually, running


def test_lines_are_answered_as_requests_are(client: OpenAI) -> None:
    lines = [chat_line(index) for index in range(20)]
    batch = submit(client, lines, metadata={"run": "1"})
    assert (batch.status, batch.metadata) == ("validating", {"run": "1"})
    batch = wait(client, batch)
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed) == (20, 20)
    answers = {found["custom_id"]: found for found in read(client, batch.output_file_id)}
    assert len(answers) == 20
    for line in lines:
        response = answers[line["custom_id"]]["response"]
        assert response["status_code"] == 200
        assert response["request_id"]
        direct = client.chat.completions.create(**line["body"])
        text = response["body"]["choices"][0]["message"]["content"]
        assert text == direct.choices[0].message.content
    used = sum(
        found["response"]["body"]["usage"]["completion_tokens"] for found in answers.values()
    )
    assert batch.usage is not None
    assert batch.usage.output_tokens == used


def test_a_line_that_is_wrong_harms_no_other(client: OpenAI) -> None:
    lines = [
        chat_line(0),
        chat_line(1, temperature="hot"),
        chat_line(2, model="nobody"),
        chat_line(3, max_tokens=10_000_000),
        chat_line(4),
        chat_line(5, stream=True),
    ]
    batch = wait(client, submit(client, lines))
    assert batch.status == "completed"
    assert {one["custom_id"] for one in read(client, batch.output_file_id)} == {"line-0", "line-4"}
    errors = {one["custom_id"]: one["response"] for one in read(client, batch.error_file_id)}
    assert {name: found["status_code"] for name, found in errors.items()} == {
        "line-1": 400,
        "line-2": 404,
        "line-3": 400,
        "line-5": 400,
    }
    assert errors["line-1"]["body"]["error"]["param"] == "temperature"
    assert errors["line-5"]["body"]["error"]["param"] == "stream"


def test_an_input_that_is_none_says_where(client: OpenAI) -> None:
    good = chat_line(0)
    lines = [good, good, {**chat_line(1), "url": "/v1/other"}, {"custom_id": "x"}]
    content = "\n".join([*(json.dumps(line) for line in lines), "{", ""]).encode()
    file = client.files.create(file=io.BytesIO(content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    batch = wait(client, batch)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    found = [(problem.line, problem.code) for problem in batch.errors.data]
    assert found == [
        (2, "duplicate_custom_id"),
        (3, "mismatched_endpoint"),
        (4, "invalid_line"),
        (5, "invalid_json_line"),
    ]


def test_other_endpoints(client: OpenAI) -> None:
    for endpoint, body in (
        ("/v1/completions", {"prompt": "1 2 3", "max_tokens": 4}),
        ("/v1/responses", {"input": "What is 1 plus 7?", "store": False}),
    ):
        line = {
            "custom_id": "a",
            "method": "POST",
            "url": endpoint,
            "body": {"model": MODEL, **body},
        }
        batch = client.batches.create(
            input_file_id=upload(client, [line]),
            endpoint=endpoint,  # type: ignore[arg-type]
            completion_window="24h",
        )
        batch = wait(client, batch)
        [answer] = read(client, batch.output_file_id)
        assert answer["response"]["status_code"] == 200
        assert batch.usage is not None
        assert batch.usage.output_tokens > 0


def test_files_are_listed_read_and_deleted(client: OpenAI) -> None:
    names = [upload(client, [chat_line(index)]) for index in range(3)]
    listed = [file.id for file in client.files.list(purpose="batch")]
    assert set(names) <= set(listed)
    assert [file.id for file in client.files.list(limit=1)][:3]  # pages follow each other
    found = client.files.retrieve(names[0])
    assert (found.filename, found.purpose) == ("in.jsonl", "batch")
    assert found.bytes == len(client.files.content(names[0]).content)
    assert client.files.delete(names[0]).deleted
    with pytest.raises(openai.NotFoundError, match="No such file"):
        client.files.retrieve(names[0])


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"purpose": "batch"}, {}, "file"),
        ({}, {"file": b"{}"}, "purpose"),
        ({"purpose": "fine-tune"}, {"file": b"{}"}, "purpose"),
        ({"purpose": "batch", "expires_after": "1"}, {"file": b"{}"}, "expires_after"),
    ],
)
def test_an_upload_that_is_wrong_names_the_field(
    torch_cluster: Cluster, fields: dict[str, str], files: dict[str, bytes], param: str
) -> None:
    url = f"{torch_cluster.url}/v1/files"
    files = files or {"other": b""}
    answer = httpx.post(url, data=fields, files={k: ("f", v) for k, v in files.items()})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_batch_of_nothing_known_is_refused(client: OpenAI) -> None:
    for file_id, endpoint, window, param in (
        ("file-none", CHAT, "24h", "input_file_id"),
        ("file-none", "/v1/other", "24h", "endpoint"),
        ("file-none", CHAT, "soon", "completion_window"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.batches.create(
                input_file_id=file_id,
                endpoint=endpoint,  # type: ignore[arg-type]
                completion_window=window,  # type: ignore[arg-type]
            )
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("../x")


@pytest.fixture(scope="module")
def slow(emulated_cluster: Cluster) -> OpenAI:
    """Batches there take a while."""
    return OpenAI(base_url=f"{emulated_cluster.url}/v1", api_key="none", max_retries=0)


def long_line(index: int) -> dict[str, Any]:
    return chat_line(index, max_tokens=400, ignore_eos=True)


def test_cancelling_keeps_what_is_done(slow: OpenAI) -> None:
    batch = submit(slow, [long_line(index) for index in range(3000)])

    def begun() -> bool:
        counts = slow.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed > 0

    eventually(begun, "a line is done", WAIT_S)
    assert batch.input_file_id
    with pytest.raises(openai.ConflictError, match="not over"):
        slow.files.delete(batch.input_file_id)
    assert slow.batches.cancel(batch.id).status == "cancelling"
    found = wait(slow, batch)
    assert found.status == "cancelled"
    assert found.request_counts is not None
    assert 0 < found.request_counts.completed < 3000
    assert len(read(slow, found.output_file_id)) == found.request_counts.completed
    with pytest.raises(openai.ConflictError, match="Cannot cancel"):
        slow.batches.cancel(batch.id)


def await_lines(client: OpenAI, batch: Batch, num_lines: int) -> None:
    """Return when so many lines are done and others are not."""

    def begun() -> bool:
        found = client.batches.retrieve(batch.id)
        assert found.status in ("validating", "in_progress"), "it was over too soon"
        return found.request_counts is not None and found.request_counts.completed >= num_lines

    eventually(begun, f"{num_lines} lines are done", WAIT_S)


@pytest.mark.timeout(600)
def test_every_line_once_although_all_kinds_of_programs_die(
    tmp_path: Path, fast_profile: Path
) -> None:
    num_lines = 2_000
    options = ("--engine", "emulated", "--workers", "3", "--gateways", "2")
    with running(tmp_path, *options, "--profile", str(fast_profile)) as cluster:
        client = OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=8)
        batch = submit(client, [chat_line(i, max_tokens=30) for i in range(num_lines)])
        chance = random.Random(1)
        # By its progress, not by the clock: a fast machine must not be done before the last kill.
        for done, module in (
            (0.05, "rondo_worker"),
            (0.2, "rondo_coordinator"),
            (0.35, "rondo_gateway"),
            (0.5, "rondo_gateway"),
        ):
            await_lines(client, batch, int(done * num_lines))
            pids = [pid for pid, args in cluster.children().items() if args.endswith(module)]
            os.kill(chance.choice(sorted(pids)), signal.SIGKILL)
        found = wait(client, batch, timeout_s=300.0)
        assert found.status == "completed"
        times = Counter(one["custom_id"] for one in read(client, found.output_file_id))
        assert read(client, found.error_file_id) == []
        assert times == {f"line-{index}": 1 for index in range(num_lines)}


def test_the_command_line_answers_a_file(torch_cluster: Cluster, tmp_path: Path) -> None:
    given, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [chat_line(0), chat_line(1, max_tokens=-1), chat_line(2)]
    given.write_text("\n".join(json.dumps(line) for line in lines))
    done = torch_cluster.cli("batch", str(given), str(output))
    assert done.returncode == 1, done.stderr
    assert "completed: 2 of 3 lines" in done.stdout
    assert "tokens/s" in done.stderr
    names = {json.loads(line)["custom_id"] for line in output.read_text().splitlines()}
    assert names == {"line-0", "line-2"}
    [failed] = (tmp_path / "out.jsonl.errors").read_text().splitlines()
    assert json.loads(failed)["custom_id"] == "line-1"
    given.write_text("no JSON")
    refused = torch_cluster.cli("batch", str(given), str(output))
    assert refused.returncode == 2
    assert "line 1" in refused.stderr
