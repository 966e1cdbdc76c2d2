"""What `rondo` says to what cannot be: before anything is started, and with the option's name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo.errors import ModelError
from rondo.local import arguments, cli
from rondo.local.model_folder import find_model, model_name

Rondo = Callable[..., tuple[int, str]]


@pytest.fixture
def rondo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rondo:
    """Runs a command: its exit code, and what it said on stderr."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rondo", *map(str, words)])
        try:
            code = cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--workers", "many", "'many' is no whole number from 1 to 1024"),
        ("--workers", "0", "'0' is no whole number from 1 to 1024"),
        ("--port", "http", "'http' is no whole number from 0 to 65535"),
        ("--scale", "4", "'4' is not MIN:MAX, e.g. 2:8"),
        ("--scale", "8:2", "in '8:2' the first is above the second"),
        ("--scale", "1:x", "'x' is no whole number from 1 to 1024"),
        ("--ready-timeout", "-1", "'-1' is no whole number from 1 on"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    rondo: Rondo, option: str, value: str, said: str
) -> None:
    code, problem = rondo("up", f"{option}={value}")
    assert code == 2
    assert f"argument {option}: {said}" in problem


def test_bounds_and_counts_are_taken() -> None:
    assert arguments.bounds("2:8") == (2, 8)
    assert arguments.whole(1)("7") == 7
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.whole(1)("7.5")


def test_a_profile_that_is_not_there_ends_the_start(rondo: Rondo, tmp_path: Path) -> None:
    options = ("--run-dir", tmp_path / "run", "--engine", "emulated", "--profile", "h900")
    code, problem = rondo("up", *options)
    assert (code, problem[:27]) == (2, "rondo: --profile: 'h900' is")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_made_is_named(rondo: Rondo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, problem = rondo("up", "--run-dir", tmp_path / "file" / "run", "--engine", "emulated")
    assert (code, problem) == (1, f"rondo: {tmp_path}/file/run: Not a directory\n")


def test_a_bus_that_is_not_there_ends_the_start(
    rondo: Rondo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:9")
    monkeypatch.setattr("rondo.local.status.CONNECT_TIMEOUT_S", 0.2)
    options = ("--run-dir", tmp_path, "--engine", "emulated", "--port", "0")
    code, problem = rondo("up", *options)
    assert code == 1
    assert "rondo: bus nats://127.0.0.1:9: no connection in 0.2 s" in problem


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.jsonl", "out"), "INPUT: none.jsonl: No such file or directory"),
        (("empty", "out"), "INPUT: empty is empty"),
        (("broken", "out"), "INPUT: broken, line 1: "),
        (("urlless", "out"), "INPUT: urlless, line 1: Object missing required field `url`"),
        ((".", "out"), "INPUT: .: Is a directory"),
        (("good", "nowhere/out"), "OUTPUT: nowhere/out cannot be written"),
        (("good", "."), "OUTPUT: . cannot be written"),
        (("good", "out", "--errors", "nowhere/e"), "--errors: nowhere/e cannot be written"),
        (("good", "out", "--url", "localhost:1"), "--url: 'localhost:1' does not begin with"),
    ],
)
def test_batch_says_at_once_what_is_wrong(
    rondo: Rondo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "empty": "",
        "broken": "{",
        "urlless": '{"custom_id": "1"}',
        "good": '{"url": "/v1/chat/completions"}',
    }.items():
        (tmp_path / name).write_text(text)
    code, problem = rondo("batch", *words, *(() if "--url" in words else ("--url", "http://x")))
    assert code == 2
    assert problem.startswith(f"rondo: {said}")


class TestModels:
    """Folders, and names of what Hugging Face's tools have downloaded."""

    @pytest.fixture(autouse=True)
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A cache with one model, as it is laid out on disk."""
        stored = tmp_path / "hub" / "models--acme--tiny-1.5"
        (stored / "refs").mkdir(parents=True)
        (stored / "refs" / "main").write_text("0a1b\n")
        snapshot = stored / "snapshots" / "0a1b"
        snapshot.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "m.safetensors"):
            (snapshot / name).write_text("{}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.chdir(tmp_path)
        return snapshot

    def test_a_name_of_the_hub_is_found_in_its_cache(self, hub: Path) -> None:
        assert find_model("acme/tiny-1.5", weights=True) == hub
        assert model_name("acme/tiny-1.5") == "acme/tiny-1.5"

    def test_a_folder_goes_before_a_name(self, hub: Path, tmp_path: Path) -> None:
        (tmp_path / "acme").mkdir()
        (tmp_path / "acme" / "tiny-1.5").symlink_to(hub)
        assert find_model("acme/tiny-1.5", weights=True) == hub
        assert model_name("acme/tiny-1.5") == hub.name

    def test_what_is_not_there_says_how_to_get_it(self) -> None:
        with pytest.raises(ModelError, match="`hf download acme/other` puts it there"):
            find_model("acme/other", weights=True)

    def test_a_folder_has_its_name(self) -> None:
        assert model_name(None) == model_name("rondo-tiny") == "rondo-tiny"
        assert model_name("/models/my llama/") == "my llama"
