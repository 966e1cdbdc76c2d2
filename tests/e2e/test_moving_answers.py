"""An answer in a given form, with logprobs, whose worker dies: nobody notices."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx

from tests.support.cluster import Cluster, running

#: Long enough that the worker dies amid it.
FORM = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 99},
    "minItems": 150,
    "maxItems": 150,
}
BODY: dict[str, Any] = {
    "model": "rondo-tiny",
    "messages": [{"role": "user", "content": "Count from 1 to 30."}],
    "temperature": 1.0,
    "seed": 8,
    "guided_json": FORM,
    "logprobs": True,
    "top_logprobs": 2,
    "stream": True,
}


def running_on(cluster: Cluster) -> str:
    """The instance that has the only request."""
    busy = [i["instance_id"] for i in cluster.status()["instances"] if i["num_running"]]
    assert len(busy) == 1
    return str(busy[0])


def ask(cluster: Cluster, *, kill_after: int | None = None) -> tuple[str, list[dict[str, Any]]]:
    """The text and the logprobs of an answer whose worker dies after so many pieces."""
    text, pieces = "", 0
    entries: list[dict[str, Any]] = []
    url = f"{cluster.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=BODY, timeout=60) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                entries += (choice["logprobs"] or {}).get("content") or []
            pieces += 1
            if pieces == kill_after:
                os.kill(cluster.pid_of(running_on(cluster)), signal.SIGKILL)
    return text, entries


def test_an_answer_goes_on_in_its_form_on_another_worker(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2", RONDO_DTYPE="float32") as cluster:
        text, entries = ask(cluster)
        assert len(json.loads(text)) == 150
        moved, moved_entries = ask(cluster, kill_after=12)
        assert cluster.metric("gateway", "rondo_resumed_answers_total") >= 1
    assert moved == text
    assert [e["token"] for e in moved_entries] == [e["token"] for e in entries]
    gaps = [abs(a["logprob"] - b["logprob"]) for a, b in zip(moved_entries, entries, strict=True)]
    assert max(gaps) < 0.01
    assert "".join(e["token"] for e in moved_entries) == moved
