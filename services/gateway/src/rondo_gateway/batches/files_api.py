"""Routes of /v1/files.

Surface: `FilesApi`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from rondo.errors import CapacityError
from rondo.wire.messages import FileRecord
from rondo_gateway.batches.store import CHUNK_BYTES, FileStore
from rondo_gateway.errors import ApiError, invalid

InUse = Callable[[str], Awaitable[bool]]

PURPOSES = ("batch",)
#: As OpenAI's.
MAX_PAGE = 10_000


class FilesApi:
    """Handlers of the routes.

    Args:
        in_use: whether a batch that is not over needs a file.
        max_bytes: of one file.
    """

    def __init__(self, store: FileStore, in_use: InUse, max_bytes: int) -> None:
        self._store = store
        self._in_use = in_use
        self._max_bytes = max_bytes

    def install(self, app: FastAPI) -> None:
        """Adds the routes."""
        app.post("/v1/files", response_model=None)(self.upload)
        app.get("/v1/files")(self.list_files)
        app.get("/v1/files/{file_id}")(self.retrieve)
        app.delete("/v1/files/{file_id}")(self.delete)
        app.get("/v1/files/{file_id}/content", response_model=None)(self.content)

    async def upload(self, request: Request) -> dict[str, Any]:
        """POST /v1/files: a form with `purpose` and `file`."""
        try:
            async with request.form(max_files=1, max_fields=8) as form:
                file, purpose = form.get("file"), form.get("purpose")
                if not isinstance(file, UploadFile):
                    raise _missing("file")
                if not isinstance(purpose, str):
                    raise _missing("purpose")
                if purpose not in PURPOSES:
                    raise invalid("Invalid 'purpose': only 'batch' is supported.", "purpose")
                if unsupported := set(form) - {"file", "purpose"}:
                    param = min(unsupported)
                    raise invalid(f"'{param}' is not supported.", param, "unsupported_parameter")
                return as_object(await self._save(file, purpose))
        except MultiPartException as error:
            raise invalid(f"The body is no form: {error.message}", None, "invalid_body") from None

    async def _save(self, file: UploadFile, purpose: str) -> FileRecord:
        if (file.size or 0) > self._max_bytes:
            message = f"The file is larger than {self._max_bytes} bytes."
            raise ApiError(413, message, param="file", code="file_too_large")
        record = FileRecord(
            file_id=new_file_id(),
            filename=(file.filename or "")[:255],
            purpose=purpose,
            num_bytes=0,
            num_chunks=0,
            created_at=int(time.time()),
        )
        try:
            return await self._store.save(record, _chunks(file))
        except CapacityError as error:
            raise ApiError(413, error.detail, param="file", code=error.reason) from None

    async def list_files(
        self,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = MAX_PAGE,
        order: str = "desc",
    ) -> dict[str, Any]:
        """GET /v1/files."""
        found = await self._store.list_files()
        if order == "asc":
            found.reverse()
        elif order != "desc":
            raise invalid("Invalid 'order': must be asc or desc.", "order")
        if purpose is not None:
            found = [one for one in found if one.purpose == purpose]
        return page([as_object(one) for one in found], after, limit, MAX_PAGE)

    async def retrieve(self, file_id: str) -> dict[str, Any]:
        """GET /v1/files/{id}."""
        return as_object(await self._find(file_id))

    async def delete(self, file_id: str) -> dict[str, Any]:
        """DELETE /v1/files/{id}."""
        record = await self._find(file_id)
        if await self._in_use(file_id):
            message = f"A batch that is not over needs the file '{file_id}'."
            raise ApiError(409, message, param="file_id", code="file_in_use")
        await self._store.delete(record)
        return {"id": file_id, "object": "file", "deleted": True}

    async def content(self, file_id: str) -> Response:
        """GET /v1/files/{id}/content."""
        record = await self._find(file_id)
        headers = {"content-length": str(record.num_bytes)}
        return StreamingResponse(
            self._store.read(record), media_type="application/octet-stream", headers=headers
        )

    async def _find(self, file_id: str) -> FileRecord:
        record = await self._store.find(file_id)
        if record is None:
            raise ApiError(404, f"No such file: '{file_id}'.", param="id", code="file_not_found")
        return record


def new_file_id() -> str:
    """An id that no other file has."""
    return f"file-{uuid.uuid4().hex}"


def as_object(record: FileRecord) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": record.file_id,
        "object": "file",
        "bytes": record.num_bytes,
        "created_at": record.created_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
    }


def page(found: list[dict[str, Any]], after: str | None, limit: int, most: int) -> dict[str, Any]:
    """A page of OpenAI's lists: what comes after the object `after`, at most `limit`.

    Raises:
        ApiError: `limit` is out of range.
    """
    if not 1 <= limit <= most:
        raise invalid(f"Invalid 'limit': must be from 1 to {most}.", "limit")
    if after is not None:
        ids = [one["id"] for one in found]
        found = found[ids.index(after) + 1 :] if after in ids else []
    part = found[:limit]
    return {
        "object": "list",
        "data": part,
        "first_id": part[0]["id"] if part else None,
        "last_id": part[-1]["id"] if part else None,
        "has_more": len(found) > limit,
    }


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while data := await file.read(CHUNK_BYTES):
        yield data


def _missing(param: str) -> ApiError:
    message = f"Missing required parameter: '{param}'."
    return invalid(message, param, "missing_required_parameter")
