"""Which key the commands send that talk to the API."""

from __future__ import annotations

import pytest

from rondo.local.ask import authorization


@pytest.mark.parametrize(
    ("rondo", "openai", "expected"),
    [
        ("", "", {}),
        ("mine", "", {"authorization": "Bearer mine"}),
        ("", "other", {"authorization": "Bearer other"}),
        ("mine", "other", {"authorization": "Bearer mine"}),
    ],
)
def test_our_own_key_goes_before_openais(
    monkeypatch: pytest.MonkeyPatch, rondo: str, openai: str, expected: dict[str, str]
) -> None:
    monkeypatch.setenv("RONDO_API_KEY", rondo)
    monkeypatch.setenv("OPENAI_API_KEY", openai)
    assert authorization() == expected


def test_without_a_key_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RONDO_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert authorization() == {}
