"""Routes of /v1/batches.

Surface: `BatchesApi`.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI
from pydantic import Field

from rondo.bus.subjects import check_id
from rondo.errors import RevisionConflict
from rondo.wire.messages import BatchRecord
from rondo_gateway.batches.files_api import new_file_id, page
from rondo_gateway.batches.host import BatchHost
from rondo_gateway.batches.record import OPEN, as_object, moved
from rondo_gateway.batches.store import FileStore
from rondo_gateway.errors import ApiError, invalid
from rondo_gateway.fields import Text
from rondo_gateway.messages import Strict

MAX_PAGE = 100
CANCEL_TRIES = 20
MetadataKey = Annotated[Text, Field(max_length=64)]
MetadataValue = Annotated[Text, Field(max_length=512)]


class BatchBody(Strict):
    """POST /v1/batches."""

    input_file_id: Text
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
    completion_window: Annotated[Text, Field(pattern=r"^([1-9]\d{0,2})h$")]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None


class BatchesApi:
    """Handlers of the routes."""

    def __init__(self, store: FileStore, host: BatchHost) -> None:
        self._store = store
        self._host = host

    def install(self, app: FastAPI) -> None:
        """Adds the routes."""
        app.post("/v1/batches")(self.create)
        app.get("/v1/batches")(self.list_batches)
        app.get("/v1/batches/{batch_id}")(self.retrieve)
        app.post("/v1/batches/{batch_id}/cancel")(self.cancel)

    async def create(self, body: BatchBody) -> dict[str, Any]:
        """POST /v1/batches."""
        source = await self._store.find(body.input_file_id)
        if source is None or source.purpose != "batch":
            message = f"No such file for batches: '{body.input_file_id}'."
            raise invalid(message, "input_file_id", "file_not_found")
        record = BatchRecord(
            batch_id=f"batch_{uuid.uuid4().hex}",
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            output_file_id=new_file_id(),
            error_file_id=new_file_id(),
            status="validating",
            created_at=int(time.time()),
            window_s=int(body.completion_window[:-1]) * 3600,
            metadata=dict(body.metadata or {}),
        )
        await (await self._host.bucket()).create(record.batch_id, record)
        return as_object(record)

    async def list_batches(self, after: str | None = None, limit: int = 20) -> dict[str, Any]:
        """GET /v1/batches: the newest first."""
        records = sorted(await self._all(), key=lambda one: (-one.created_at, one.batch_id))
        return page([as_object(one) for one in records], after, limit, MAX_PAGE)

    async def retrieve(self, batch_id: str) -> dict[str, Any]:
        """GET /v1/batches/{id}."""
        record, _ = await self._find(batch_id)
        return as_object(record)

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """POST /v1/batches/{id}/cancel: what has a result keeps it."""
        for _ in range(CANCEL_TRIES):
            record, revision = await self._find(batch_id)
            if record.status == "cancelling":
                return as_object(record)
            if record.status not in ("validating", "in_progress"):
                message = f"Cannot cancel a batch with status '{record.status}'."
                raise ApiError(409, message, param="id", code="batch_not_cancellable")
            record = moved(record, "cancelling")
            record = msgspec.structs.replace(record, beat=record.beat + 1)
            try:
                await (await self._host.bucket()).update(batch_id, record, revision)
            except RevisionConflict:
                continue
            return as_object(record)
        raise ApiError(503, "The batch changes too fast.", code="conflict", retry_after_s=1.0)

    async def uses(self, file_id: str) -> bool:
        """Whether a batch that is not over needs a file."""
        return any(
            record.status in OPEN
            and file_id in (record.input_file_id, record.output_file_id, record.error_file_id)
            for record in await self._all()
        )

    async def _all(self) -> list[BatchRecord]:
        found = (await (await self._host.bucket()).snapshot()).values()
        return [entry.value for entry in found if isinstance(entry.value, BatchRecord)]

    async def _find(self, batch_id: str) -> tuple[BatchRecord, int]:
        try:
            entry = await (await self._host.bucket()).get(check_id(batch_id))
        except ValueError:
            entry = None
        if entry is None or not isinstance(entry.value, BatchRecord):
            message = f"No batch found with id '{batch_id}'."
            raise ApiError(404, message, param="batch_id", code="batch_not_found")
        return entry.value, entry.revision
