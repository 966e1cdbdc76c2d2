"""Lines of a batch's input, and of its output. Pure.

The form is OpenAI's: a line is a JSON object with `custom_id`, `method`, `url` and `body`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from rondo.wire.messages import BatchProblem

#: OpenAI's limit of lines in a batch, and a line's length that surely is no request.
MAX_LINES = 50_000
MAX_LINE_BYTES = 4 * 2**20
#: Results must fit into one message of the bus.
MAX_RESULT_BYTES = 768 * 1024
#: So many problems of an input are told.
MAX_PROBLEMS = 100


class BatchLine(msgspec.Struct, frozen=True):
    """One request of the input; `body` is its JSON as it was written."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class LineResult(msgspec.Struct, frozen=True, array_like=True):
    """What became of line `number` (from 0): `line` is JSON for the output, or for the errors."""

    number: int
    ok: bool
    input_tokens: int
    output_tokens: int
    line: bytes


class LineError(Exception):
    """A line is no request that can be answered here."""

    def __init__(self, code: str, message: str, param: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


_decoder = msgspec.json.Decoder(BatchLine)


async def split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines without their ends; empty ones are left out.

    A line above the limit comes as a part that is longer than it, and the rest is skipped.
    """
    rest = b""
    skipping = False
    async for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            if line.strip() and not skipping:
                yield line
            skipping = False
        if len(rest) > MAX_LINE_BYTES:
            if not skipping:
                yield rest
            rest, skipping = b"", True
    if rest.strip() and not skipping:
        yield rest


def parse_line(line: bytes, endpoint: str) -> BatchLine:
    """A line of a batch for `endpoint`.

    Raises:
        LineError: it is none, and says why.
    """
    if len(line) > MAX_LINE_BYTES:
        raise LineError("line_too_long", f"A line is longer than {MAX_LINE_BYTES} bytes.", None)
    try:
        found = _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise LineError("invalid_line", f"This line is no request: {error}", None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise LineError("invalid_json_line", "This line is not parseable as JSON.", None) from None
    if found.method != "POST":
        raise LineError("invalid_method", "Only POST is supported.", "method")
    if found.url != endpoint:
        message = f"The URL of a line must be the batch's endpoint, {endpoint}."
        raise LineError("mismatched_endpoint", message, "url")
    if not bytes(found.body).lstrip().startswith(b"{"):
        raise LineError("invalid_body", "The body must be a JSON object.", "body")
    return found


async def check_lines(
    chunks: AsyncIterator[bytes], endpoint: str
) -> tuple[int, list[BatchProblem]]:
    """How many lines an input has, and what is wrong with it."""
    problems: list[BatchProblem] = []
    seen: set[str] = set()
    count = 0
    async for line in split_lines(chunks):
        count += 1
        if count > MAX_LINES:
            message = f"A batch may have {MAX_LINES} lines."
            return count, [BatchProblem(code="too_many_lines", message=message, line=count)]
        try:
            found = parse_line(line, endpoint)
            if found.custom_id in seen:
                message = "The custom_id of each line must be unique."
                raise LineError("duplicate_custom_id", message, "custom_id")
            seen.add(found.custom_id)
        except LineError as error:
            problem = BatchProblem(
                code=error.code, message=str(error), line=count, param=error.param
            )
            problems.append(problem)
            if len(problems) >= MAX_PROBLEMS:
                break
    if not count:
        problems.append(BatchProblem(code="empty_file", message="The input file has no line."))
    return count, problems


def answered(
    number: int, batch_id: str, custom_id: str, status: int, request_id: str, body: bytes
) -> LineResult:
    """The result of a line that got an answer, good or bad."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    used = _usage(body) if status == 200 else {}
    return LineResult(
        number,
        status == 200,
        _tokens(used, "prompt_tokens", "input_tokens"),
        _tokens(used, "completion_tokens", "output_tokens"),
        _encode(number, batch_id, custom_id, response, None),
    )


def unanswered(number: int, batch_id: str, custom_id: str, code: str, message: str) -> LineResult:
    """The result of a line that got no answer at all."""
    error = {"code": code, "message": message}
    return LineResult(number, False, 0, 0, _encode(number, batch_id, custom_id, None, error))


def _encode(
    number: int,
    batch_id: str,
    custom_id: str,
    response: dict[str, Any] | None,
    error: dict[str, str] | None,
) -> bytes:
    name = f"batch_req_{batch_id.removeprefix('batch_')}_{number}"
    return msgspec.json.encode(
        {"id": name, "custom_id": custom_id, "response": response, "error": error}
    )


class _Used(msgspec.Struct):
    usage: dict[str, Any] | None = None


def _usage(body: bytes) -> dict[str, Any]:
    return msgspec.json.decode(body, type=_Used).usage or {}


def _tokens(used: dict[str, Any], *names: str) -> int:
    return next((int(used[name]) for name in names if name in used), 0)
