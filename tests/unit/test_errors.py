"""Failures of every kind through a FastAPI application: status and shape."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from rondo.errors import (
    BusUnavailable,
    CapacityError,
    ConfigError,
    DecodeError,
    EngineError,
    InstanceLost,
    InvariantError,
    MessageTooLarge,
    NoResponder,
    RequestTimeout,
)
from rondo_gateway.errors import (
    ApiError,
    install_error_handlers,
    model_not_found,
    sse_error_frame,
    to_api_error,
)
from rondo_gateway.schemas import ChatBody
from rondo_gateway.tokenize import TokenizeBody

SECRET = "nats-7.internal"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def build(exc: Exception | None = None) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/v1/chat/completions")
    async def create(body: ChatBody) -> dict[str, str]:
        if exc is not None:
            raise exc
        return {"model": body.model}

    return app


def client_for(exc: Exception | None = None) -> TestClient:
    return TestClient(build(exc), raise_server_exceptions=False)


def post(exc: Exception) -> httpx2.Response:
    with client_for(exc) as client:
        return client.post("/v1/chat/completions", json=CHAT)


def error_of(response: httpx2.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    return dict(body["error"])


def send(content: bytes | str, content_type: str = "application/json") -> httpx2.Response:
    with client_for() as client:
        headers = {"content-type": content_type}
        return client.post("/v1/chat/completions", content=content, headers=headers)


MAPPED: list[tuple[Exception, int, str, str]] = [
    (ApiError(418, "no", code="teapot"), 418, "invalid_request_error", "teapot"),
    (model_not_found("m"), 404, "invalid_request_error", "model_not_found"),
    (CapacityError("queue_full", "full", 2.5), 429, "rate_limit_error", "queue_full"),
    (CapacityError("overloaded", "busy", 2.5), 429, "rate_limit_error", "overloaded"),
    (CapacityError("no_instances", "none", 1.0), 503, "server_error", "no_instances"),
    (CapacityError("draining", "later", None), 503, "server_error", "draining"),
    (
        CapacityError("too_long", "long", None),
        400,
        "invalid_request_error",
        "context_length_exceeded",
    ),
    (InstanceLost(SECRET), 503, "server_error", "instance_lost"),
    (RequestTimeout(SECRET, 1.0), 503, "server_error", "request_timeout"),
    (BusUnavailable(SECRET, "refused"), 503, "server_error", "bus_unavailable"),
    (NoResponder(SECRET), 503, "server_error", "no_responder"),
    (MessageTooLarge(SECRET, 9, 8), 413, "invalid_request_error", "prompt_too_large"),
    (EngineError(SECRET), 500, "server_error", "internal_error"),
    (DecodeError(SECRET), 500, "server_error", "internal_error"),
    (ConfigError(SECRET, "bad"), 500, "server_error", "internal_error"),
    (InvariantError(SECRET), 500, "server_error", "internal_error"),
    (ValueError(SECRET), 500, "server_error", "internal_error"),
]


@pytest.mark.parametrize(
    ("exc", "status", "kind", "code"), MAPPED, ids=[type(row[0]).__name__ for row in MAPPED]
)
def test_each_exception_has_its_answer(exc: Exception, status: int, kind: str, code: str) -> None:
    response = post(exc)
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (status, kind, code)
    assert SECRET not in response.text


def test_who_is_refused_for_load_is_told_what_helps() -> None:
    detail = "about 9.10 s to wait, it has 4.90 s for that"
    message = error_of(post(CapacityError("overloaded", detail, 4.2)))["message"]
    assert message.startswith(f"The cluster is too busy to answer this request in time ({detail}).")
    assert "'slo.ttft_ms'" in message


@pytest.mark.parametrize(
    ("retry_after_s", "seconds", "milliseconds"),
    [(2.5, "3", "2500"), (0.0, "1", "1"), (0.3, "1", "300"), (None, None, None)],
)
def test_retry_after(retry_after_s: float | None, seconds: str | None, milliseconds: str) -> None:
    headers = post(CapacityError("queue_full", "full", retry_after_s)).headers
    assert headers.get("retry-after") == seconds
    assert headers.get("retry-after-ms") == milliseconds


@pytest.mark.parametrize("exc", [ValueError("boom"), EngineError("boom"), InvariantError("boom")])
def test_the_unexpected_is_logged_with_its_traceback(
    exc: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "rondo_gateway.errors"):
        post(exc)
    [record] = [r for r in caplog.records if r.name == "rondo_gateway.errors"]
    assert record.exc_info is not None
    assert record.exc_info[1] is exc


def test_the_expected_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "rondo_gateway.errors"):
        post(CapacityError("queue_full", "full", 1.0))
    assert not [r for r in caplog.records if r.name == "rondo_gateway.errors"]


# Bad bodies.


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": [{"role": "user"}]}, "messages.0.content", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"n": 99}, "n", "invalid_value"),
        ({"slo": {"ttft_ms": -1}}, "slo.ttft_ms", "invalid_value"),
        ({"slo": {"ttft": 500}}, "slo.ttft", "unknown_parameter"),
        ({"audio": {}}, "audio", "unsupported_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
            "unsupported_content",
        ),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with client_for() as client:
        response = client.post("/v1/chat/completions", json=CHAT | fields)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert param in error["message"]


def test_a_missing_field_is_named() -> None:
    response = send('{"model": "m"}')
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, "messages")
    assert error["code"] == "missing_required_parameter"


def test_the_body_is_never_echoed() -> None:
    secret = "my password is hunter2"
    response = send(json.dumps({"model": "m", "messages": secret, "stop": [secret, ""]}))
    assert response.status_code == 400
    assert "hunter2" not in response.text


@pytest.mark.parametrize(
    "content",
    ["{", "", "[1, 2]", "5", "null", b"\xff\xfe", "[" * 100_000, '{"seed": 1' + "0" * 5_000 + "}"],
)
def test_a_body_that_is_no_json_object_is_a_400(content: bytes | str) -> None:
    response = send(content)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_json_that_does_not_parse_says_where() -> None:
    error = error_of(send('{"model": }'))
    assert error["code"] == "invalid_json"
    assert error["message"].endswith("Expecting value at character 10")


def test_fields_that_do_not_go_together_are_named() -> None:
    app = build()

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> None:
        raise AssertionError

    with TestClient(app) as client:
        error = error_of(client.post("/tokenize", json={}))
    assert "either 'prompt' or 'messages' must be there" in error["message"]


def test_a_forgotten_content_type_is_explained() -> None:
    response = send(json.dumps(CHAT), "application/x-www-form-urlencoded")
    assert response.status_code == 400
    assert "application/json" in error_of(response)["message"]


def test_unknown_routes_and_methods_answer_in_the_same_shape() -> None:
    with client_for() as client:
        unknown = client.get("/v1/nothing")
        wrong = client.get("/v1/chat/completions")
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "unknown_url")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


# As OpenAI's client sees it.


def openai_client(app: FastAPI) -> openai.AsyncOpenAI:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    http = httpx2.AsyncClient(transport=transport)
    return openai.AsyncOpenAI(
        api_key="none", base_url="http://gateway/v1", http_client=http, max_retries=0
    )


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (CapacityError("queue_full", "full", 1.0), openai.RateLimitError),
        (ApiError(400, "wrong", param="stop"), openai.BadRequestError),
        (model_not_found("m"), openai.NotFoundError),
        (ValueError("boom"), openai.InternalServerError),
    ],
)
async def test_openais_client_raises_the_matching_class(
    exc: Exception, kind: type[openai.APIStatusError]
) -> None:
    async with openai_client(build(exc)) as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}]
            )
    assert caught.value.code == to_api_error(exc).code
    assert caught.value.param == to_api_error(exc).param


async def test_openais_client_raises_on_an_error_frame_within_a_stream() -> None:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def create() -> StreamingResponse:
        async def frames() -> AsyncIterator[bytes]:
            yield sse_error_frame(to_api_error(InstanceLost(SECRET)))

        return StreamingResponse(frames(), media_type="text/event-stream")

    async with openai_client(app) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="try again") as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "instance_lost"
