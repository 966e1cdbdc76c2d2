"""Errors as the client sees them: OpenAI's shape and statuses, for responses and for streams.

Surface: raise `ApiError` anywhere; `install_error_handlers(app)` once; `to_api_error(exc)` and
`sse_error_frame(error)` for a stream that has already begun.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rondo.errors import (
    BusUnavailable,
    CapacityError,
    InstanceLost,
    MessageTooLarge,
    NoResponder,
    RequestTimeout,
    RondoError,
)

_log = logging.getLogger(__name__)

#: Statuses of the coordinator's refusals; any other reason is a 503.
_CAPACITY_STATUS = {"queue_full": 429, "overloaded": 429, "no_instances": 503, "too_long": 400}

#: Failures of the cluster that a new try may well survive. Their own texts name hosts and
#: subjects, so the client gets the code only.
_RETRYABLE_CODE: dict[type[RondoError], str] = {
    InstanceLost: "instance_lost",
    RequestTimeout: "request_timeout",
    BusUnavailable: "bus_unavailable",
    NoResponder: "no_responder",
}
_RETRY_AFTER_S = 1.0


class ApiError(RondoError):
    """An answer to the client that is not a success.

    Args:
        status: the HTTP status; the default `type` follows from it.
        message: a sentence for the client; nothing internal.
        param: the request's field at fault, dotted, e.g. ``messages.0.content``.
        code: a stable word for programs, e.g. ``context_length_exceeded``.
        retry_after_s: when a new try has a chance; becomes the Retry-After header.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or _default_type(status)
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return Retry-After in whole seconds (the standard) and in ms (OpenAI's clients)."""
        if self.retry_after_s is None:
            return {}
        return {
            "retry-after": str(max(1, math.ceil(self.retry_after_s))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after_s * 1000))),
        }

    def response(self) -> Response:
        """Return the complete HTTP response."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers())


def invalid(message: str, param: str | None, code: str | None = "invalid_value") -> ApiError:
    """Return the 400 for a field that is wrong."""
    return ApiError(400, message, param=param, code=code)


def model_not_found(name: str) -> ApiError:
    """Return the 404 for a model that nobody serves."""
    return ApiError(
        404, f"The model '{name}' does not exist.", param="model", code="model_not_found"
    )


def to_api_error(exc: BaseException) -> ApiError:
    """Map any exception to what the client may know of it; unexpected ones become a bare 500."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, CapacityError):
        return _capacity_error(exc)
    if isinstance(exc, MessageTooLarge):
        return ApiError(413, "The prompt is too large for this service.", code="prompt_too_large")
    for kind, code in _RETRYABLE_CODE.items():
        if isinstance(exc, kind):
            message = "The service could not finish this request. Please try again."
            return ApiError(503, message, code=code, retry_after_s=_RETRY_AFTER_S)
    return ApiError(500, "Internal error. The request was not completed.", code="internal_error")


def sse_error_frame(error: ApiError) -> bytes:
    """Return the frame that ends a stream which failed after its status was sent."""
    return b"data: " + bytes(JSONResponse(error.body()).body) + b"\n\n"


def install_error_handlers(app: FastAPI) -> None:
    """Make every failure of `app` answer in OpenAI's shape."""
    app.add_exception_handler(RondoError, _on_rondo_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


def _default_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _capacity_error(exc: CapacityError) -> ApiError:
    code = "context_length_exceeded" if exc.reason == "too_long" else exc.reason
    status = _CAPACITY_STATUS.get(exc.reason, 503)
    message = exc.detail
    if status == 429:  # the scheduler's words alone mean nothing to who never heard of it
        message = (
            f"The cluster is too busy to answer this request in time ({exc.detail.rstrip('.')}). "
            "Try again later, or with a longer 'slo.ttft_ms'."
        )
    return ApiError(status, message, code=code, retry_after_s=exc.retry_after_s)


async def _on_rondo_error(request: Request, exc: Exception) -> Response:
    error = to_api_error(exc)
    if error.status == 500 and error is not exc:
        _log_failure(request, exc)
    return error.response()


async def _on_unexpected(request: Request, exc: Exception) -> Response:
    _log_failure(request, exc)
    return to_api_error(exc).response()


def _log_failure(request: Request, exc: Exception) -> None:
    # The route as we wrote it: what a client wrote into the path may be anything.
    route = getattr(request.scope.get("route"), "path", "?")
    _log.error("request_failed method=%s route=%s", request.method, route, exc_info=exc)


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # registered for this class only
    where = f"{request.method} {request.url.path}"
    if exc.status_code == 404:
        error = ApiError(404, f"Unknown URL ({where}).", code="unknown_url")
    elif exc.status_code == 405:
        error = ApiError(405, f"Method not allowed ({where}).", code="method_not_allowed")
    else:
        error = ApiError(exc.status_code, str(exc.detail))
    response = error.response()
    response.headers.update(exc.headers or {})  # e.g. Allow on a 405
    return response


async def _on_validation_error(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # registered for this class only
    return _first_problem(exc.errors()[0]).response()


def _first_problem(problem: dict[str, Any]) -> ApiError:
    """Tell one validation problem; its `input` is the client's text and stays out of the answer."""
    kind, path = problem["type"], problem["loc"][1:]
    if kind == "json_invalid":
        reason = problem.get("ctx", {}).get("error", "syntax error")
        where = f" at character {path[0]}" if path else ""
        return invalid(f"The body is not valid JSON: {reason}{where}", None, "invalid_json")
    if not path and kind == "value_error":  # fields that do not go together
        return invalid(f"Invalid body: {_sentence(problem['msg'])}.", None)
    if not path:
        message = "The body must be a JSON object, sent with Content-Type: application/json."
        return invalid(message, None, "invalid_body")
    param = ".".join(str(part) for part in path)
    if kind == "missing":
        message = f"Missing required parameter: '{param}'."
        return invalid(message, param, "missing_required_parameter")
    if kind == "extra_forbidden":
        return invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    code = kind if kind.startswith("unsupported_") else "invalid_value"
    return invalid(f"Invalid '{param}': {_sentence(problem['msg'])}", param, code)


def _sentence(message: str) -> str:
    """Drop the prefix that pydantic puts before the text of a ValueError."""
    return message.removeprefix("Value error, ")
