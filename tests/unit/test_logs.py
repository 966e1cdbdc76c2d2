"""Logs: one line an event; exceptions without the data that they quote."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from rondo.errors import BusUnavailable, EngineError
from rondo.service import logs

CANARY = "canary-4711"


@pytest.fixture
def _restored() -> Iterator[None]:
    root, rondo = logging.getLogger(), logging.getLogger("rondo")
    before = (root.handlers[:], root.level, rondo.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    rondo.setLevel(before[2])


def fail(error: Exception) -> None:
    raise error


def fail_twice() -> None:
    try:
        fail(ValueError(CANARY))
    except ValueError as error:
        raise EngineError("the step failed") from error


def logged(capsys: pytest.CaptureFixture[str], level: str, work: object) -> str:
    logs.setup(level)
    log = logging.getLogger("rondo.test")
    try:
        work()  # type: ignore[operator]
    except Exception:
        log.exception("failed")
    return capsys.readouterr().err


@pytest.mark.usefixtures("_restored")
def test_an_event_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("INFO")
    logs.info(logging.getLogger("rondo.test"), "done", number=3, text="a b\nc", share=0.25)
    line = capsys.readouterr().err
    assert line.endswith('Z INFO rondo.test done number=3 text="a b\\nc" share=0.25\n')


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(
    "error",
    [
        ValueError(CANARY),
        KeyError(CANARY),
        TypeError(CANARY),
        ExceptionGroup(CANARY, [ValueError(CANARY)]),
    ],
)
def test_what_an_exception_quotes_is_not_logged(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    text = logged(capsys, "INFO", lambda: fail(error))
    assert CANARY not in text
    assert f"builtins.{type(error).__name__}" in text
    assert " fail" in text
    assert "/" not in text  # no file names
    assert CANARY in logged(capsys, "DEBUG", lambda: fail(error))


@pytest.mark.usefixtures("_restored")
def test_what_a_program_says_of_itself_is(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (OSError(28, "No space left"), RuntimeError("out of memory"), MemoryError("x")):
        assert str(error) in logged(capsys, "INFO", lambda error=error: fail(error))
    assert "nats:1" in logged(capsys, "INFO", lambda: fail(BusUnavailable("nats:1", "x")))


@pytest.mark.usefixtures("_restored")
def test_causes_are_told_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    text = logged(capsys, "INFO", fail_twice)
    assert CANARY not in text
    outer, _, inner = text.partition("rondo.errors.EngineError: the step failed")
    assert "failed" in outer
    assert "  builtins.ValueError\n" in inner
