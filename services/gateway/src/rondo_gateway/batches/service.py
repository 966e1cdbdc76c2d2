"""The batch API put together: routes, the store, and the work on batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastapi import FastAPI
from starlette.types import ASGIApp

from rondo_gateway import slo
from rondo_gateway.attempt import Links
from rondo_gateway.background import Background
from rondo_gateway.batches.batches_api import BatchesApi
from rondo_gateway.batches.caller import LineCaller
from rondo_gateway.batches.files_api import FilesApi
from rondo_gateway.batches.host import BatchHost
from rondo_gateway.batches.record import HeldRecord
from rondo_gateway.batches.runner import BatchRunner
from rondo_gateway.batches.store import FileStore
from rondo_gateway.errors import install_error_handlers
from rondo_gateway.request_id import RequestId

#: The class of lines that name no objectives, where the settings have it.
LINE_CLASS = "batch"
#: What a form takes beside its file.
FORM_BYTES = 64 * 1024


class Routes(Protocol):
    """A part of the HTTP surface."""

    def install(self, app: FastAPI) -> None:
        """Adds its routes."""
        ...


class Batches:
    """Files and batches on one gateway.

    Args:
        routes: those that lines may name.
    """

    def __init__(self, links: Links, routes: Sequence[Routes]) -> None:
        settings = links.settings
        store = FileStore(links.bus, settings.files_max_mib * 2**20)
        classes = slo.classes_of(settings)
        caller = LineCaller(_inner_app(routes), LINE_CLASS if LINE_CLASS in classes else "")

        def runner(held: HeldRecord) -> BatchRunner:
            return BatchRunner(held, store, caller, settings.batch_lines)

        self.host = BatchHost(links.bus, links.gateway_id, runner)
        batches = BatchesApi(store, self.host)
        most = settings.file_max_mib * 2**20
        files = FilesApi(store, batches.uses, most)
        self.larger_bodies = {"/v1/files": most + FORM_BYTES}
        self._parts = (files, batches)

    def install(self, app: FastAPI) -> None:
        """Adds the routes."""
        for part in self._parts:
            part.install(app)


def _inner_app(routes: Sequence[Routes]) -> ASGIApp:
    """An application without the front door: who made a batch has come through it."""
    app = FastAPI(openapi_url=None)
    for part in routes:
        part.install(app)
    app.add_middleware(RequestId)
    app.add_middleware(Background)
    install_error_handlers(app)
    return app
