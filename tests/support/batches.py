"""Batches with OpenAI's own client, as a user would submit them and fetch their answers."""

from __future__ import annotations

import json
from typing import Any, Final

from openai import OpenAI
from openai.types import Batch

from tests.support.cluster import eventually

MODEL = "rondo-tiny"
CHAT: Final = "/v1/chat/completions"
OVER = ("completed", "failed", "cancelled", "expired")
WAIT_S = 120.0


def chat_body(index: int, **body: Any) -> dict[str, Any]:
    """A question of its own for each index, with one answer."""
    message = {"role": "user", "content": f"What is {index} plus 7?"}
    return {"model": MODEL, "messages": [message], "temperature": 0, **body}


def chat_line(index: int, **body: Any) -> dict[str, Any]:
    """The same as a line of a batch."""
    given = chat_body(index, **body)
    return {"custom_id": f"line-{index}", "method": "POST", "url": CHAT, "body": given}


def upload(client: OpenAI, lines: list[dict[str, Any]]) -> str:
    """The id of a file with these lines."""
    content = "\n".join(json.dumps(line) for line in lines).encode()
    return client.files.create(file=("in.jsonl", content), purpose="batch").id


def submit(client: OpenAI, lines: list[dict[str, Any]], **more: Any) -> Batch:
    """A batch of chats that has just begun."""
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint=CHAT, completion_window="24h", **more
    )


def wait(client: OpenAI, batch: Batch, timeout_s: float = WAIT_S) -> Batch:
    """The batch once it is over."""

    def over() -> Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status in OVER else None

    found: Batch = eventually(over, f"{batch.id} is over", timeout_s)
    return found


def read(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file, none of no file."""
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
