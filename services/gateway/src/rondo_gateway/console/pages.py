"""The console's files: read once, served from memory with a tag that changes with them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from rondo_gateway.errors import ApiError

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class _Page:
    content: bytes
    media_type: str
    tag: str


class Pages:
    """Serves what is in the package's folder `static`, and nothing else."""

    def __init__(self) -> None:
        self._pages: dict[str, _Page] = {}
        for item in (files("rondo_gateway.console") / "static").iterdir():
            media_type = _TYPES.get(item.name.rpartition(".")[2])
            if media_type:
                content = item.read_bytes()
                tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
                self._pages[item.name] = _Page(content, media_type, tag)

    def respond(self, name: str, request: Request) -> Response:
        """A file, or a 304 for who has it already.

        Raises:
            ApiError: 404, there is no such file.
        """
        page = self._pages.get(name)
        if page is None:
            raise ApiError(404, "The console has no such page.", code="not_found")
        # The gate adds what every page has; this one may be kept, and is asked about each time.
        headers = {"cache-control": "no-cache", "etag": page.tag}
        if request.headers.get("if-none-match") == page.tag:
            return Response(status_code=304, headers=headers)
        return Response(page.content, media_type=page.media_type, headers=headers)
