"""The HTTP surface: routes, health, metrics."""

from __future__ import annotations

import random
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from rondo.types import Slo
from rondo_gateway.attempt import Links
from rondo_gateway.body_limit import BodyLimit
from rondo_gateway.completions import Completion, Job
from rondo_gateway.directory import Directory
from rondo_gateway.errors import install_error_handlers, invalid, model_not_found
from rondo_gateway.limits import check_token_ids
from rondo_gateway.responses import Kind, model_card, model_list
from rondo_gateway.schemas import ChatBody, CompletionBody
from rondo_gateway.text.encoding import encode
from rondo_gateway.text.model_files import ModelFiles


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
        self._models = models
        self._directory = directory
        self._registry = registry
        self._created = int(time.time())
        settings = links.settings
        self._slo = Slo(ttft_s=settings.slo_ttft_ms / 1e3, tpot_s=settings.slo_tpot_ms / 1e3)

    async def chat(self, body: ChatBody, request: Request) -> Response:
        """POST /v1/chat/completions."""
        arrival_s = time.monotonic()
        model = self._model(body.model)
        text = model.render_chat(body.template_messages())
        prompt = await encode(model.tokenizer, text, add_special_tokens=False)
        job = Job(
            kind=Kind.CHAT,
            model=model,
            max_model_len=self._max_model_len(model),
            prompts=[prompt],
            prompt_param="messages",
            plan=body.plan(model.default_sampling, _random_seed(), self._slo),
            arrival_s=arrival_s,
        )
        return await Completion(self._links, job).respond(request)

    async def completions(self, body: CompletionBody, request: Request) -> Response:
        """POST /v1/completions."""
        arrival_s = time.monotonic()
        model = self._model(body.model)
        prompts: list[list[int]] = []
        for prompt in body.prompt:
            if not prompt:  # even where the tokenizer would add a first token of its own
                raise invalid("The prompt is empty.", "prompt")
            if isinstance(prompt, str):
                prompts.append(await encode(model.tokenizer, prompt, add_special_tokens=True))
            else:
                check_token_ids(prompt, model.vocab_size)
                prompts.append(list(prompt))
        job = Job(
            kind=Kind.TEXT,
            model=model,
            max_model_len=self._max_model_len(model),
            prompts=prompts,
            prompt_param="prompt",
            plan=body.plan(model.default_sampling, _random_seed(), self._slo),
            arrival_s=arrival_s,
        )
        return await Completion(self._links, job).respond(request)

    async def list_models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return model_list([self._card(model) for model in self._models.values()])

    async def get_model(self, name: str) -> dict[str, Any]:
        """GET /v1/models/{name}."""
        return self._card(self._model(name))

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
        content = generate_latest(self._registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    def not_ready(self) -> str | None:
        """Why requests cannot be answered now; None when they can."""
        bus = self._links.bus
        if not bus.connected:
            return f"no connection to the bus at {bus.url}"
        if any(self._directory.servable(name) for name in self._models):
            return None
        return f"no instance serves {' or '.join(self._models)} yet"

    def _model(self, name: str) -> ModelFiles:
        model = self._models.get(name)
        if model is None:
            raise model_not_found(name)
        return model

    def _max_model_len(self, model: ModelFiles) -> int:
        """The model's limit, or less where no instance can hold so much."""
        macro = self._directory.macro(model.name)
        served = macro.max_model_len if macro else 0
        return min(model.max_model_len, served) if served else model.max_model_len

    def _card(self, model: ModelFiles) -> dict[str, Any]:
        return model_card(model.name, self._created, self._max_model_len(model))


def create_app(api: Api, max_body_bytes: int) -> FastAPI:
    """The application with all routes."""
    app = FastAPI(title="Rondo", docs_url=None, redoc_url=None)
    app.post("/v1/chat/completions", response_model=None)(api.chat)
    app.post("/v1/completions", response_model=None)(api.completions)
    app.get("/v1/models")(api.list_models)
    app.get("/v1/models/{name:path}")(api.get_model)
    app.get("/healthz")(api.health)
    app.get("/readyz", response_model=None)(api.ready)
    app.get("/metrics", response_model=None)(api.metrics)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    install_error_handlers(app)
    return app


def _random_seed() -> int:
    return random.getrandbits(63)
