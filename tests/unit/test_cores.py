"""Cores of a worker: which text names which, and what pinning does to threads."""

import os
import threading
from collections.abc import Callable

import pytest

from rondo.errors import ConfigError
from rondo_worker.cores import parse_cores, pin_process


@pytest.mark.parametrize(
    ("text", "cores"), [("", set()), ("3", {3}), ("0-2", {0, 1, 2}), ("0-1,5,1", {0, 1, 5})]
)
def test_text_names_cores(text: str, cores: set[int]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize(
    "text", ["a", "1-", "-1", "2-1", "1,,2", "1 2", "٣", "99999999", "0-99999999"]
)
def test_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="RONDO_CORES"):
        parse_cores(text)


def in_thread(action: Callable[[], object]) -> object:
    result: list[object] = []

    def run() -> None:
        try:
            result.append(action())
        except ConfigError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]


def test_threads_started_later_stay_on_the_cores() -> None:
    core = min(os.sched_getaffinity(0))

    def pin() -> object:
        pin_process(str(core))
        return in_thread(lambda: os.sched_getaffinity(0))

    before = os.sched_getaffinity(0)
    assert in_thread(pin) == {core}
    assert os.sched_getaffinity(0) == before


def test_a_core_that_is_not_ours_is_named() -> None:
    error = in_thread(lambda: pin_process("60000"))
    assert isinstance(error, ConfigError)
    assert "core 60000" in str(error)
