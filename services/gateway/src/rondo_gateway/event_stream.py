"""Server-sent events over raw ASGI: one send a frame, and an end to work nobody reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rondo_gateway.disconnect import ClientGone, while_connected

#: Key of an ASGI scope under which the outermost middleware leaves the server's own `send`. None
#: inside it does anything with the body of a stream, and five of them take a tenth of its time.
DIRECT_SEND = "rondo.direct_send"


class EventStream(Response):
    """Sends complete frames as they come.

    Args:
        on_close: called once, when the frames have ended or the client has gone.
        headers: of the response, beside its own.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        on_close: Callable[[], None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        fixed = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers={**fixed, **(headers or {})})
        del self.headers["content-length"]
        self._frames = frames
        self._on_close = on_close
        self._direct: Send | None = None
        self._unsent = b""

    @property
    def takes(self) -> bool:
        """Whether frames can be `put`: known once the stream has begun."""
        return self._direct is not None

    def put(self, frame: bytes) -> bool:
        """Sends a frame at once, while the next of `frames` is waited for.

        The server's own `send` only waits where it would have to buffer too much, and does so
        before it takes anything. Then this frame is kept, to go before the next of `frames`.

        Returns:
            Whether there is room for more.
        """
        assert self._direct is not None  # `takes` says so
        step = self._direct(
            {"type": "http.response.body", "body": frame, "more_body": True}
        ).__await__()
        try:
            next(step)
        except StopIteration:
            return True
        step.close()
        self._unsent = frame
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until the frames end or the client goes."""
        self._direct = scope.get(DIRECT_SEND)
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            await while_connected(receive, self._send_all(self._direct or send))
        except ClientGone:
            return
        finally:
            await self._frames.aclose()
            self._on_close()

    async def _send_all(self, send: Send) -> None:
        async for frame in self._frames:
            if self._unsent:
                frame, self._unsent = self._unsent + frame, b""
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
