"""From the body of a chat or completion to the job that answers it, and its routes.

Surface: `GenerateApi` with `chat` and `completions`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from fastapi import FastAPI, Request
from fastapi.responses import Response

from rondo_gateway import slo
from rondo_gateway.attempt import Links
from rondo_gateway.background import is_background
from rondo_gateway.body import Context, GenerationBody
from rondo_gateway.completions import Completion
from rondo_gateway.errors import invalid
from rondo_gateway.job import Job
from rondo_gateway.limits import check_token_ids
from rondo_gateway.plan import GenerationPlan
from rondo_gateway.prompt_ids import prompt_ids
from rondo_gateway.request_id import arrival_of
from rondo_gateway.responses import Kind
from rondo_gateway.schemas import ChatBody, CompletionBody
from rondo_gateway.served import ServedModels
from rondo_gateway.structure import Structure, compile_structure
from rondo_gateway.text.encoding import encode
from rondo_gateway.text.model_files import ModelFiles
from rondo_gateway.text.tool_parsers import FORMATS
from rondo_gateway.tools import plan_tools, tool_structure


class GenerateApi:
    """Handlers of the routes that generate text."""

    def __init__(self, links: Links, served: ServedModels) -> None:
        self._links = links
        self._served = served
        self._classes = slo.classes_of(links.settings)

    def install(self, app: FastAPI) -> None:
        """Adds the routes."""
        app.post("/v1/chat/completions", response_model=None)(self.chat)
        app.post("/v1/completions", response_model=None)(self.completions)

    async def chat(self, body: ChatBody, request: Request) -> Response:
        """POST /v1/chat/completions."""
        job = await self.chat_job(body, request)
        return await Completion(self._links, job).respond(request)

    async def chat_job(self, body: ChatBody, request: Request) -> Job:
        """The job of a chat.

        Raises:
            ApiError: the body asks for what cannot be.
        """
        model = self._served.find(body.model)
        structure = body.structure()
        tools = plan_tools(body, model, self._links.settings.tool_parser)
        if tools is not None:
            if structure is not None:
                message = f"'{structure.param}' cannot be combined with 'tools'."
                raise invalid(message, structure.param.partition(".")[0])
            structure = tool_structure(body, tools)
        prompt = await self._chat_prompt(body, model)
        plan = body.plan(await self._context(body, model, request, structure))
        if tools is not None:
            hide = plan.hide_special and not FORMATS[tools.parser].special
            plan = replace(plan, tools=tools, hide_special=hide)
        return self._job(Kind.CHAT, model, [prompt], plan, request, "messages")

    async def completions(self, body: CompletionBody, request: Request) -> Response:
        """POST /v1/completions."""
        model = self._served.find(body.model)
        prompts = [await self._text_prompt(body, model, prompt) for prompt in body.prompt]
        plan = body.plan(await self._context(body, model, request, body.structure()))
        texts: Sequence[str] = ()
        if plan.echo:
            texts = [
                given
                if isinstance(given, str) and body.truncate_prompt_tokens is None
                # What the client does not know as text, it gets as text.
                else model.tokenizer.decode(ids, skip_special_tokens=False)
                for given, ids in zip(body.prompt, prompts, strict=True)
            ]
        job = self._job(Kind.TEXT, model, prompts, plan, request, "prompt", texts)
        return await Completion(self._links, job).respond(request)

    async def _chat_prompt(self, body: ChatBody, model: ModelFiles) -> list[int]:
        add = body.add_generation_prompt
        text = model.render_chat(
            body.template_messages(),
            tools=[tool.for_template() for tool in body.active_tools],
            add_generation_prompt=add is None or add,
            options=body.chat_template_kwargs,
        )
        special = bool(body.add_special_tokens)
        prompt = await encode(model.tokenizer, text, add_special_tokens=special)
        return _truncated(prompt, body)

    async def _text_prompt(
        self, body: CompletionBody, model: ModelFiles, prompt: str | list[int]
    ) -> list[int]:
        special = body.add_special_tokens is not False
        ids = await prompt_ids(model, prompt, add_special_tokens=special)
        return _truncated(ids, body)

    async def _context(
        self,
        body: GenerationBody,
        model: ModelFiles,
        request: Request,
        structure: Structure | None,
    ) -> Context:
        check_token_ids(body.stop_token_ids, model.vocab_size, param="stop_token_ids")
        biased = [token for token, _ in body.logit_bias]
        check_token_ids(biased, model.vocab_size, param="logit_bias")
        wanted = slo.resolve(body.slo, request.headers.get(slo.HEADER), self._classes)
        context = Context(model.default_sampling, random.getrandbits(63), wanted)
        if structure is None:
            return context
        grammar = await compile_structure(structure)
        return replace(context, grammar=grammar, grammar_param=structure.param)

    def _job(
        self,
        kind: Kind,
        model: ModelFiles,
        prompts: Sequence[list[int]],
        plan: GenerationPlan,
        request: Request,
        prompt_param: str,
        texts: Sequence[str] = (),
    ) -> Job:
        limit = self._served.max_model_len(model)
        if is_background(request):
            if plan.stream:
                raise invalid("Invalid 'stream': lines of a batch are not streamed.", "stream")
            plan = replace(plan, background=True)
        arrival_s, trace = arrival_of(request), request.headers.get("traceparent", "")
        return Job(kind, model, limit, prompts, prompt_param, plan, arrival_s, texts, trace)


def _truncated(prompt: list[int], body: GenerationBody) -> list[int]:
    """The last `truncate_prompt_tokens`, as with vLLM."""
    keep = body.truncate_prompt_tokens
    return prompt if keep is None else prompt[-keep:]
