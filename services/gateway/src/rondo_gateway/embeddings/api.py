"""Route of /v1/embeddings: the body, and the inputs of it as token ids.

Surface: `EmbeddingsApi`; `EmbeddingsBody` is refused and ignored as `rondo_gateway.schemas` says.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import Field

from rondo_gateway.attempt import Links
from rondo_gateway.background import is_background
from rondo_gateway.embeddings.run import EmbeddingsJob, EmbeddingsRun
from rondo_gateway.fields import Inputs, Text, unsupported
from rondo_gateway.limits import output_limit
from rondo_gateway.messages import Strict
from rondo_gateway.prompt_ids import prompt_ids
from rondo_gateway.request_id import arrival_of
from rondo_gateway.served import ServedModels
from rondo_gateway.slo import HEADER as SLO_HEADER
from rondo_gateway.slo import SloField, classes_of, resolve
from rondo_gateway.text.model_files import ModelFiles


class EmbeddingsBody(Strict):
    """POST /v1/embeddings. `input` holds one entry a vector: text or token ids."""

    model: Text
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int | None, Field(ge=1)] = None
    slo: SloField = None
    priority: int | None = None
    user: Text | None = None

    dimensions: Annotated[Any, unsupported()] = None
    normalize: Annotated[Any, unsupported(True)] = None


class EmbeddingsApi:
    """Handler of the route."""

    def __init__(self, links: Links, served: ServedModels) -> None:
        self._links = links
        self._served = served
        self._classes = classes_of(links.settings)

    def install(self, app: FastAPI) -> None:
        """Adds the route."""
        app.post("/v1/embeddings", response_model=None)(self.create)

    async def create(self, body: EmbeddingsBody, request: Request) -> Response:
        """POST /v1/embeddings."""
        model = self._served.find(body.model)
        job = EmbeddingsJob(
            model=model,
            inputs=await self._inputs(body, model),
            slo=resolve(body.slo, request.headers.get(SLO_HEADER), self._classes),
            base64=body.encoding_format == "base64",
            arrival_s=arrival_of(request),
            traceparent=request.headers.get("traceparent", ""),
            background=is_background(request),
        )
        return await EmbeddingsRun(self._links, job).respond(request)

    async def _inputs(self, body: EmbeddingsBody, model: ModelFiles) -> list[list[int]]:
        special = body.add_special_tokens is not False
        keep, longest = body.truncate_prompt_tokens, self._served.max_model_len(model)
        inputs = []
        for given in body.input:
            ids = await prompt_ids(model, given, add_special_tokens=special, param="input")
            ids = ids if keep is None else ids[-keep:]
            output_limit(len(ids), 1, longest, prompt_param="input", limit_param="input")
            inputs.append(ids)
        return inputs
