"""Runs a batch's line as a request of its own, within this process.

So a line is checked, answered and refused exactly as the same request over HTTP would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from starlette.types import ASGIApp

from rondo_gateway import request_id, slo
from rondo_gateway.background import when_placed


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a line; `retry_after_s` when it says that a new try has a chance."""

    status: int
    request_id: str
    body: bytes
    retry_after_s: float | None


class LineCaller:
    """Sends lines to the application.

    Args:
        app: takes requests without credentials: who made the batch has shown theirs.
        slo_class: of lines whose body names no objectives; empty for the standard one.
    """

    def __init__(self, app: ASGIApp, slo_class: str) -> None:
        headers = {"content-type": "application/json"}
        if slo_class:
            headers[slo.HEADER] = slo_class
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://batch",
            headers=headers,
            timeout=None,
        )

    async def call(self, url: str, body: bytes, on_placed: Callable[[], None]) -> Answer:
        """The answer of the application; cancelling gives the request up.

        Args:
            on_placed: called when an instance has taken the line, or one of its choices.
        """
        when_placed(on_placed)
        response = await self._client.post(url, content=body)
        after = response.headers.get("retry-after-ms", "")
        return Answer(
            response.status_code,
            response.headers.get(request_id.HEADER, ""),
            response.content,
            int(after) / 1000 if after.isdigit() else None,
        )
