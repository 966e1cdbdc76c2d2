"""Whatever is wrong with a field of a body, the error calls it by its own name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from rondo_gateway.batches.batches_api import BatchBody
from rondo_gateway.embeddings.api import EmbeddingsBody
from rondo_gateway.responses_api.body import ResponsesBody
from rondo_gateway.schemas import ChatBody, CompletionBody
from rondo_gateway.tokenize import DetokenizeBody, TokenizeBody

BODIES: dict[type[BaseModel], dict[str, Any]] = {
    ChatBody: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    CompletionBody: {"model": "m", "prompt": "hi"},
    ResponsesBody: {"model": "m", "input": "hi"},
    EmbeddingsBody: {"model": "m", "input": "hi"},
    TokenizeBody: {"model": "m", "prompt": "hi"},
    DetokenizeBody: {"model": "m", "tokens": [1]},
    BatchBody: {
        "input_file_id": "f",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    },
}
FIELDS = [(body, info.alias or name) for body in BODIES for name, info in body.model_fields.items()]
WRONG: list[Any] = [
    5, -1, 1.5, "x", "\ud800", True, [], [5], ["x"], [None], [[]], [{}], {}, {"x": 1},
    {"type": 5}, [{"type": "x"}], [{"type": "function"}], {"type": "function", "function": []},
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "field"), FIELDS, ids=lambda value: getattr(value, "__name__", value)
)
def test_an_error_names_the_field(body: type[BaseModel], field: str) -> None:
    refused = 0
    for value in WRONG:
        try:
            made = body.model_validate(BODIES[body] | {field: value})
            if isinstance(made, ResponsesBody):
                made.chat(())
        except ValidationError as error:
            places = [problem["loc"] for problem in error.errors()]
        except RequestValidationError as error:
            places = [problem["loc"][1:] for problem in error.errors()]
        except Exception as error:  # an answer of its own: it says the field itself
            places = [tuple(str(getattr(error, "param", "")).split("."))]
        else:
            continue
        refused += 1
        for place in places:
            names = [str(part) for part in place]
            assert not names or names[0] == field, value
            assert all(re.fullmatch(r"\w+", name) for name in names), value
    assert refused
