"""Routes of /console: the pages, the stream that feeds them, and what they may ask for.

Whoever comes here has shown a key with the scope `admin`, where keys are in use: see
`rondo_gateway.security`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from rondo.bus import subjects
from rondo.errors import NoResponder, PeerError
from rondo.service import logs
from rondo.wire.messages import FaultKind, InjectFault
from rondo_gateway.attempt import Links
from rondo_gateway.console.demo_load import MAX_RATE, DemoLoad
from rondo_gateway.console.lifetime import Lifetime
from rondo_gateway.console.pages import Pages
from rondo_gateway.errors import ApiError
from rondo_gateway.event_stream import EventStream
from rondo_gateway.generate import GenerateApi
from rondo_gateway.schemas import ChatBody
from rondo_gateway.security.identity import identity_of
from rondo_gateway.served import ServedModels
from rondo_gateway.slo import standard_of

log = logging.getLogger("rondo.gateway")

#: Streams at once; a browser tab has one.
MAX_VIEWERS = 100
PAUSE_S = 6.0
FAULT_TIMEOUT_S = 2.0
#: Text that a request may be searched by.
MAX_QUERY_CHARS = 128


class LoadBody(BaseModel):
    """Requests/s of the demonstration's load; 0 ends it."""

    model_config = ConfigDict(extra="forbid")
    rate: Annotated[float, Field(ge=0, le=MAX_RATE, allow_inf_nan=False)]


class FaultBody(BaseModel):
    """What is to happen to an instance."""

    model_config = ConfigDict(extra="forbid")
    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    fault: Literal["kill", "pause", "drain"]


class Console:
    """Handlers of the routes."""

    def __init__(self, links: Links, served: ServedModels, generate: GenerateApi) -> None:
        self._links = links
        self._served = served
        self._generate = generate
        self._pages = Pages()
        self._lifetime = Lifetime(links.bus, links.gateway_id)
        self._load = DemoLoad(links, served)

    def install(self, app: FastAPI) -> None:
        """Adds the routes."""
        app.get("/", response_model=None)(self.front)
        app.get("/console", response_model=None)(self.home)
        app.get("/console/api/about", response_model=None)(self.about)
        app.get("/console/api/stream", response_model=None)(self.stream)
        app.get("/console/api/requests", response_model=None)(self.requests)
        app.post("/console/api/chat", response_model=None)(self.chat)
        app.post("/console/api/load", response_model=None)(self.load)
        app.post("/console/api/fault", response_model=None)(self.fault)
        app.get("/console/{name:path}", response_model=None)(self.page)

    async def start(self) -> None:
        """Listens for other gateways' consoles. The bus is there."""
        await self._links.news.start(self._links.bus)
        if self._links.settings.demo:
            await self._load.start()

    async def close(self) -> None:
        """Ends all streams: their browsers come back, to another gateway."""
        await self._load.close()
        await self._lifetime.close()

    async def front(self) -> Response:
        """GET /: who opens a cluster's address in a browser wants to see it."""
        return RedirectResponse("/console/", status_code=307)

    async def home(self) -> Response:
        """GET /console: pages refer to their neighbours, so the address ends in a slash."""
        return RedirectResponse("/console/", status_code=308)

    async def page(self, name: str, request: Request) -> Response:
        """GET /console/..."""
        return self._pages.respond(name or "index.html", request)

    async def about(self) -> Response:
        """GET /console/api/about: what does not change while the gateway runs, and the load."""
        settings = self._links.settings
        standard = standard_of(settings)
        return _json(
            {
                "gateway": self._links.gateway_id,
                "models": self._served.names,
                "demo": settings.demo,
                "limit_ttft_ms": round(standard.ttft_s * 1000, 3),
                "limit_tpot_ms": round(standard.tpot_s * 1000, 3),
                "load": {"rate": self._load.rate, "most": MAX_RATE},
            }
        )

    async def stream(self, request: Request) -> Response:
        """GET /console/api/stream: steps as server-sent events; see `console.view`."""
        if self._lifetime.num_viewers >= MAX_VIEWERS:
            message = f"{MAX_VIEWERS} consoles are open on this gateway."
            raise ApiError(503, message, code="too_many_consoles", retry_after_s=5.0)
        last_id = request.headers.get("last-event-id", "")
        frames = self._lifetime.frames(last_id)
        first = await anext(frames)  # or an error, before the response begins
        return EventStream(_after(first, frames), lambda: None)

    async def requests(self, q: str = "") -> Response:
        """GET /console/api/requests?q=: requests whose id contains the text, newest first."""
        picture = await self._lifetime.touch()
        return _json({"requests": picture.tracks.find(q[:MAX_QUERY_CHARS])})

    async def chat(self, body: ChatBody, request: Request) -> Response:
        """POST /console/api/chat: a chat completion, under the key that opened the console."""
        return await self._generate.chat(body, request)

    async def load(self, body: LoadBody, request: Request) -> Response:
        """POST /console/api/load: sets the load of a demonstration."""
        self._check_demo()
        await self._load.set_rate(body.rate)
        logs.info(log, "demo_load", rate=body.rate, by=_who(request))
        return _json({"rate": self._load.rate})

    async def fault(self, body: FaultBody, request: Request) -> Response:
        """POST /console/api/fault: hurts an instance of a demonstration."""
        self._check_demo()
        logs.warning(log, "demo_fault", instance=body.instance, fault=body.fault, by=_who(request))
        order = InjectFault(fault=FaultKind(body.fault), duration_s=PAUSE_S)
        subject = subjects.fault(body.instance)
        try:
            await self._links.bus.request(subject, order, FAULT_TIMEOUT_S)
        except NoResponder:
            message = f"{body.instance} takes no faults: it is not there, or RONDO_DEMO is off."
            raise ApiError(409, message, code="takes_no_faults") from None
        except PeerError as error:
            raise ApiError(503, f"{body.instance}: {error}", code="no_answer") from error
        return _json({"instance": body.instance, "fault": body.fault})

    def _check_demo(self) -> None:
        """Raises:
        ApiError: 403, this cluster is no demonstration.
        """
        if not self._links.settings.demo:
            message = "This is no demonstration cluster: RONDO_DEMO is off."
            raise ApiError(403, message, type="permission_error", code="no_demonstration")


async def _after(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(rest):
        yield first
        async for frame in rest:
            yield frame


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _who(request: Request) -> str:
    identity = identity_of(request.scope)
    return identity.key_id if identity else ""
