"""Server-sent events over raw ASGI: one send a frame, and an end to work nobody reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rondo_gateway.disconnect import ClientGone, while_connected


class EventStream(Response):
    """Sends complete frames as they come.

    Args:
        on_close: called once, when the frames have ended or the client has gone.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes], on_close: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until the frames end or the client goes."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            await while_connected(receive, self._send_all(send))
        except ClientGone:
            return
        finally:
            await self._frames.aclose()
            self._on_close()

    async def _send_all(self, send: Send) -> None:
        async for frame in self._frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
