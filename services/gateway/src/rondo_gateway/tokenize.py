"""POST /tokenize and /detokenize, in vLLM's shapes.

Surface: `TokenizeApi`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import Field, model_validator

from rondo_gateway.fields import JsonObject, Text
from rondo_gateway.limits import check_token_ids
from rondo_gateway.messages import ChatMessage, Strict, Tools
from rondo_gateway.served import ServedModels
from rondo_gateway.text.encoding import encode
from rondo_gateway.text.vocabulary import vocabulary_of

MAX_TOKENS = 1_000_000


class TokenizeBody(Strict):
    """A text, or a chat as its template renders it."""

    model: Text | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage] | None, Field(min_length=1)] = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None
    tools: Tools | None = None
    chat_template_kwargs: JsonObject | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either 'prompt' or 'messages' must be there, and not both")
        return self


class DetokenizeBody(Strict):
    """Token ids."""

    model: Text | None = None
    tokens: Annotated[list[int], Field(max_length=MAX_TOKENS)]


class TokenizeApi:
    """Handlers of the routes."""

    def __init__(self, served: ServedModels) -> None:
        self._served = served

    def install(self, app: FastAPI) -> None:
        """Adds the routes."""
        app.post("/tokenize")(self.tokenize)
        app.post("/detokenize")(self.detokenize)

    async def tokenize(self, body: TokenizeBody) -> dict[str, Any]:
        """POST /tokenize."""
        model = self._served.find(body.model)
        add = body.add_special_tokens
        if body.messages is not None:
            generate = body.add_generation_prompt
            text = model.render_chat(
                [message.for_template() for message in body.messages],
                tools=[tool.for_template() for tool in body.tools or ()],
                add_generation_prompt=generate is None or generate,
                options=body.chat_template_kwargs,
            )
            special = bool(add)
        else:
            text, special = body.prompt or "", add is None or add
        tokens = await encode(model.tokenizer, text, add_special_tokens=special)
        names = None
        if body.return_token_strs:
            vocabulary = vocabulary_of(model.tokenizer)
            names = [vocabulary.exact_bytes(token).decode(errors="replace") for token in tokens]
        return {
            "count": len(tokens),
            "max_model_len": self._served.max_model_len(model),
            "tokens": tokens,
            "token_strs": names,
        }

    async def detokenize(self, body: DetokenizeBody) -> dict[str, Any]:
        """POST /detokenize."""
        model = self._served.find(body.model)
        check_token_ids(body.tokens, model.vocab_size, param="tokens")
        return {"prompt": model.tokenizer.decode(body.tokens, skip_special_tokens=False)}
