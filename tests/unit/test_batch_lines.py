"""Lines of batches: split, checked, and put into OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_gateway.batches import lines
from rondo_gateway.batches.lines import LineError, parse_line

CHAT = "/v1/chat/completions"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def collect(*parts: bytes) -> list[bytes]:
    return [line async for line in lines.split_lines(chunks(*parts))]


def line(**changes: object) -> bytes:
    whole = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"x": 1}, **changes}
    return json.dumps(whole).encode()


@given(st.lists(st.binary(max_size=20), max_size=20))
async def test_lines_do_not_depend_on_chunks(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert await collect(*parts) == [part for part in whole.split(b"\n") if part.strip()]


async def test_a_line_beyond_the_limit_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 10)
    found = await collect(b"short\n", *[b"x" * 8] * 100, b"\nnext\n")
    assert [found[0], found[-1]] == [b"short", b"next"]
    assert len(found) == 3
    assert 10 < len(found[1]) < 20
    with pytest.raises(LineError, match="longer"):
        parse_line(found[1], CHAT)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (b"[]", "invalid_line"),
        (b"{}", "invalid_line"),
        (line(custom_id=7), "invalid_line"),
        (line(method="GET"), "invalid_method"),
        (line(url="/v1/files"), "mismatched_endpoint"),
        (line(body=[]), "invalid_body"),
        (b'{"body":' + b"[" * 100_000, "invalid_json_line"),
    ],
)
def test_a_line_that_is_none(data: bytes, code: str) -> None:
    with pytest.raises(LineError) as caught:
        parse_line(data, CHAT)
    assert caught.value.code == code


def test_a_body_stays_as_it_was_written() -> None:
    data = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"n":1e2, "n":1}}'
    assert bytes(parse_line(data, "/v1/completions").body) == b'{"n":1e2, "n":1}'


async def test_too_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINES", 2)
    data = b"\n".join(line(custom_id=str(i)) for i in range(4))
    count, [problem] = await lines.check_lines(chunks(data), CHAT)
    assert (count, problem.code, problem.line) == (3, "too_many_lines", 3)
    _, [problem] = await lines.check_lines(chunks(b"\n \n"), CHAT)
    assert problem.code == "empty_file"


def test_results_count_their_tokens() -> None:
    body = b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    result = lines.answered(5, "batch_1", "a", 200, "req", body)
    assert (result.ok, result.input_tokens, result.output_tokens) == (True, 3, 4)
    assert json.loads(result.line) == {
        "id": "batch_req_1_5",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req", "body": json.loads(body)},
        "error": None,
    }
    refused = lines.answered(5, "batch_1", "a", 400, "req", b"{}")
    assert (refused.ok, refused.input_tokens) == (False, 0)
