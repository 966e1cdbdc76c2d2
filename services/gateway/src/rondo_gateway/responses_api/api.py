"""Routes of /v1/responses: a chat's machinery under another form.

Surface: `ResponsesApi`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from rondo.errors import RondoError
from rondo_gateway.attempt import Links
from rondo_gateway.completions import STATUS_CLIENT_GONE, Completion
from rondo_gateway.disconnect import ClientGone, while_connected
from rondo_gateway.errors import ApiError, to_api_error
from rondo_gateway.event_stream import EventStream
from rondo_gateway.generate import GenerateApi
from rondo_gateway.responses_api.body import ResponsesBody
from rondo_gateway.responses_api.output import Event, OutputBuilder, event
from rondo_gateway.responses_api.store import ResponseStore


class ResponsesApi:
    """Handlers of the routes."""

    def __init__(self, links: Links, generate: GenerateApi) -> None:
        self._links = links
        self._generate = generate
        self._store = ResponseStore(links.bus)

    def install(self, app: FastAPI) -> None:
        """Adds the routes."""
        app.post("/v1/responses", response_model=None)(self.create)
        app.get("/v1/responses/{response_id}")(self.retrieve)
        app.delete("/v1/responses/{response_id}")(self.delete)

    async def create(self, body: ResponsesBody, request: Request) -> Response:
        """POST /v1/responses."""
        history: list[dict[str, Any]] = []
        if body.previous_response_id is not None:
            _, history = await self._find(body.previous_response_id, "previous_response_id")
        job = await self._generate.chat_job(body.chat(history), request)
        completion = Completion(self._links, job)
        run = _Run(body, history, completion, self._store)
        return await run.respond(request)

    async def retrieve(self, response_id: str) -> dict[str, Any]:
        """GET /v1/responses/{id}."""
        response, _ = await self._find(response_id, "response_id")
        return response

    async def delete(self, response_id: str) -> dict[str, Any]:
        """DELETE /v1/responses/{id}."""
        if not await self._store.delete(response_id):
            raise _not_found(response_id, "response_id")
        return {"id": response_id, "object": "response", "deleted": True}

    async def _find(
        self, response_id: str, param: str
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found = await self._store.load(response_id)
        if found is None:
            raise _not_found(response_id, param)
        return found


class _Run:
    """One request from its admission to its stored response."""

    def __init__(
        self,
        body: ResponsesBody,
        history: list[dict[str, Any]],
        completion: Completion,
        store: ResponseStore,
    ) -> None:
        self._body = body
        self._history = history
        self._completion = completion
        self._store = store
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._output = OutputBuilder()

    async def respond(self, request: Request) -> Response:
        completion = self._completion
        try:
            await while_connected(request.receive, completion.start())
            if self._body.stream:
                return EventStream(self._frames(), completion.close, completion.timing())
            response = await while_connected(request.receive, self._collect())
        except ClientGone:
            completion.close()
            return Response(status_code=STATUS_CLIENT_GONE)
        except BaseException:
            completion.close()
            raise
        completion.close()
        content = msgspec.json.encode(response)
        return Response(content, media_type="application/json", headers=completion.timing())

    async def _collect(self) -> dict[str, Any]:
        async for happened in self._events():
            last = happened
        response: dict[str, Any] = last["response"]
        return response

    async def _frames(self) -> AsyncGenerator[bytes]:
        number = 0
        try:
            async for happened in self._events():
                yield event(number, happened)
                number += 1
        except RondoError as error:
            problem = to_api_error(error)
            fault = {"code": problem.code or "server_error", "message": problem.message}
            failed = {**self._response("failed"), "error": fault}
            yield event(number, {"type": "response.failed", "response": failed})

    async def _events(self) -> AsyncGenerator[Event]:
        for kind in ("response.created", "response.in_progress"):
            yield {"type": kind, "response": self._response("in_progress")}
        finish = None
        async for _, shaped in self._completion.shaped():
            for happened in self._output.take(shaped):
                yield happened
            finish = shaped.finish or finish
        status = "incomplete" if finish == "length" else "completed"
        for happened in self._output.close(status):
            yield happened
        response = self._response(status)
        if self._body.store is not False:
            items = [*self._history, *self._body.items(), *self._output.items]
            await self._store.save(response, items)
        yield {"type": f"response.{status}", "response": response}

    def _response(self, status: str) -> dict[str, Any]:
        body = self._body
        over = status in ("completed", "incomplete")
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        name = (body.tool_choice or "").partition(":")[2]
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": details,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": list(self._output.items) if over else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": self._text(),
            "tool_choice": {"type": "function", "name": name}
            if name
            else body.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": self._usage() if over else None,
        }

    def _text(self) -> dict[str, Any]:
        form = self._body.text.format if self._body.text else None
        if form is None:
            return {"format": {"type": "text"}}
        return {"format": form.model_dump(by_alias=True, exclude_none=True)}

    def _usage(self) -> dict[str, Any]:
        used = self._completion.usage()
        return {
            "input_tokens": used["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": used["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used["total_tokens"],
        }


def _not_found(response_id: str, param: str) -> ApiError:
    message = f"The response '{response_id}' is not known, or not kept any more."
    code = "previous_response_not_found" if param == "previous_response_id" else None
    status = 400 if code else 404
    return ApiError(status, message, param=param, code=code)
