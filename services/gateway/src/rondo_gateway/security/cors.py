"""Pages of other sites that may call the API from a browser (CORS); none unless settings say so.

No cookies and no passwords go along: a page sends the key that its user gave it.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

_METHODS = ("GET", "POST", "DELETE")
#: What scripts may read of an answer beside its body.
_EXPOSED = ("x-request-id", "retry-after", "retry-after-ms", "server-timing")


def add_cors(app: FastAPI, origins: frozenset[str]) -> None:
    """Lets pages of these origins in; `*` is all."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=sorted(origins),
        allow_methods=_METHODS,
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        allow_credentials=False,
    )
