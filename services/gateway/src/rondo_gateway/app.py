"""The HTTP surface: routes, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry

from rondo.service.scrape import scrape
from rondo_gateway.attempt import Links
from rondo_gateway.batches.service import Batches
from rondo_gateway.body_limit import BodyLimit
from rondo_gateway.console.api import Console
from rondo_gateway.directory import Directory
from rondo_gateway.embeddings.api import EmbeddingsApi
from rondo_gateway.errors import install_error_handlers
from rondo_gateway.generate import GenerateApi
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.request_id import RequestId
from rondo_gateway.responses import model_list
from rondo_gateway.responses_api.api import ResponsesApi
from rondo_gateway.security.cors import add_cors
from rondo_gateway.security.gate import OPEN_DOOR, Door, Gate
from rondo_gateway.served import ServedModels
from rondo_gateway.text.model_files import ModelFiles
from rondo_gateway.tokenize import TokenizeApi


class Api:
    """Handlers of the routes."""

    def __init__(
        self,
        links: Links,
        models: dict[str, ModelFiles],
        directory: Directory,
        registry: CollectorRegistry,
    ) -> None:
        self._links = links
        self._directory = directory
        self._registry = registry
        self._served = ServedModels(models, directory)
        generate = GenerateApi(links, self._served)
        embeddings = EmbeddingsApi(links, self._served)
        tokenize = TokenizeApi(self._served)
        self.console = Console(links, self._served, generate)
        responses = ResponsesApi(links, generate)
        self.batches = Batches(links, (generate, responses, embeddings))
        self._parts = (generate, responses, embeddings, tokenize, self.batches, self.console)

    def install(self, app: FastAPI) -> None:
        """Adds all routes."""
        for part in self._parts:
            part.install(app)
        app.get("/v1/models")(self.list_models)
        app.get("/v1/models/{name:path}")(self.get_model)
        app.get("/healthz")(self.health)
        for path in ("/readyz", "/health"):  # the second is what programs ask vLLM
            app.get(path, response_model=None)(self.ready)
        app.get("/metrics", response_model=None)(self.metrics)

    async def list_models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return model_list([self._served.card(self._served.find(n)) for n in self._served.names])

    async def get_model(self, name: str) -> dict[str, Any]:
        """GET /v1/models/{name}."""
        return self._served.card(self._served.find(name))

    async def health(self) -> dict[str, str]:
        """GET /healthz: the process lives."""
        return {"status": "alive"}

    async def ready(self) -> Response:
        """GET /readyz: requests can be answered."""
        problem = self.not_ready()
        if problem:
            return JSONResponse({"status": "not ready", "problem": problem}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """GET /metrics."""
        content = await scrape(self._registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    def not_ready(self) -> str | None:
        """Why requests cannot be answered now; None when they can."""
        bus = self._links.bus
        if not bus.connected:
            return f"no connection to the bus at {bus.url}"
        if any(self._directory.servable(name) for name in self._served.names):
            return None
        return f"no instance serves {' or '.join(self._served.names)} yet"


def create_app(
    api: Api, max_body_bytes: int, door: Door = OPEN_DOOR, metrics: GatewayMetrics | None = None
) -> FastAPI:
    """The application with all routes. What is added last sees a request first."""
    app = FastAPI(title="Rondo", docs_url=None, redoc_url=None)
    api.install(app)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes, larger=api.batches.larger_bodies)
    app.add_middleware(Gate, door=door, metrics=metrics)
    if door.origins:
        add_cors(app, door.origins)
    app.add_middleware(RequestId)
    install_error_handlers(app)
    return app
