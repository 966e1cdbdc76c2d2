"""Names on the bus: what may be part of one."""

from __future__ import annotations

import pytest

from rondo.bus import subjects


@pytest.mark.parametrize("value", ["a", "w-1", "A_b-9", "x" * 64])
def test_ids(value: str) -> None:
    assert subjects.check_id(value) == value


@pytest.mark.parametrize("value", ["", "a.b", "*", ">", "a b", "a\r\nPUB x", "é", "x" * 65, "a\n"])
def test_no_ids(value: str) -> None:
    with pytest.raises(ValueError, match="is no id"):
        subjects.check_id(value)


def test_subjects() -> None:
    assert subjects.submit("m") == "rondo.v1.macro.m.submit"
    assert subjects.run("w") == "rondo.v1.inst.w.run"
    assert subjects.command("w") == "rondo.v1.inst.w.cmd"
    assert subjects.report("w") == "rondo.v1.inst.w.report"
    assert subjects.all_reports() == "rondo.v1.inst.*.report"
    assert subjects.beat("w") == "rondo.v1.inst.w.beat"
    assert subjects.all_beats() == "rondo.v1.inst.*.beat"
    assert subjects.tokens("g") == "rondo.v1.tok.g"
    assert subjects.all_tokens() == "rondo.v1.tok.*"
    assert subjects.event("turn") == "rondo.v1.events.turn"
    assert subjects.all_events() == "rondo.v1.events.*"


@pytest.mark.parametrize(
    "build",
    [
        subjects.submit,
        subjects.run,
        subjects.command,
        subjects.report,
        subjects.beat,
        subjects.tokens,
    ],
)
def test_an_id_cannot_widen_a_subject(build: object) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match="is no id"):
        build("*")


@pytest.mark.parametrize(
    ("model", "macro_id"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama-Llama-3-1-8B"),
        ("", "model"),
        ("x" * 100, "x" * 64),
    ],
)
def test_macro_id_of_a_model_is_an_id(model: str, macro_id: str) -> None:
    assert subjects.macro_id_of(model) == macro_id
    assert subjects.check_id(macro_id) == macro_id
