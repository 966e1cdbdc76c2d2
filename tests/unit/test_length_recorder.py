"""The log of lengths: what is written, by whom it may be read, and where it ends."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.lengths import recorder as recorder_module
from rondo.lengths.recorder import LengthRecorder
from rondo.lengths.records import LengthRecord, of_one_model, read_log

SETTING = "RONDO_RECORD_LENGTHS"
MIB = 2**20


def record(number: int, *, model: str = "m", finish: str = "stop") -> LengthRecord:
    prompt = [number, 2, 3]
    return LengthRecord(model=model, prompt=prompt, max_tokens=9, output=4, finish=finish)  # type: ignore[arg-type]


def write(path: Path, records: list[LengthRecord], max_bytes: int = MIB) -> None:
    recorder = LengthRecorder(path, max_bytes, SETTING)
    for one in records:
        assert recorder.append(one)
    assert recorder.close(timeout_s=10.0)


def test_a_log_is_appended_to_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    write(path, [record(1), record(2, finish="length")])
    write(path, [record(3)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_log(path) == [record(1), record(2, finish="length"), record(3)]
    assert json.loads(path.read_text().splitlines()[1]) == {
        "model": "m",
        "prompt": [2, 2, 3],
        "max_tokens": 9,
        "output": 4,
        "finish": "length",
    }


def test_a_full_log_takes_whole_lines_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lengths.jsonl"
    write(path, [record(1)])
    line_bytes = path.stat().st_size
    write(path, [record(n) for n in range(2, 9)], max_bytes=3 * line_bytes + line_bytes // 2)
    assert read_log(path) == [record(1), record(2), record(3)]
    assert "is full" in caplog.text
    write(path, [record(9)], max_bytes=line_bytes)
    assert path.stat().st_size == 3 * line_bytes


def test_what_the_disk_cannot_take_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MAX_BACKLOG_TOKENS", 7)
    monkeypatch.setattr(recorder_module, "FLUSH_INTERVAL_S", 60.0)  # nothing is written meanwhile
    recorder = LengthRecorder(tmp_path / "l.jsonl", MIB, SETTING)
    assert [recorder.append(record(n)) for n in range(3)] == [True, True, False]
    assert recorder.close(timeout_s=10.0)
    assert recorder.num_dropped == 1
    assert not recorder.append(record(4))
    assert len(read_log(recorder.path)) == 2


def test_a_disk_that_fails_ends_the_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    recorder = LengthRecorder(tmp_path / "l.jsonl", MIB, SETTING)
    monkeypatch.setattr(os, "write", fail)
    recorder.append(record(1))
    assert recorder.close(timeout_s=10.0)
    assert "No space left" in caplog.text
    assert not recorder.append(record(2))


def test_a_place_that_will_not_do_is_named(tmp_path: Path) -> None:
    shown = tmp_path / "shown.jsonl"
    shown.touch(0o644)
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe", 0o600)
    cases = {
        tmp_path / "no" / "folder": "No such file",
        tmp_path: "Is a directory",
        shown: "may be read by others",
        link: "cannot be written",
        tmp_path / "pipe": "cannot be written",
    }
    for path, problem in cases.items():
        with pytest.raises(ConfigError, match=problem) as caught:
            LengthRecorder(path, MIB, SETTING)
        assert caught.value.setting == SETTING
    assert not (tmp_path / "elsewhere").exists()


def test_a_log_may_end_amid_a_line_but_not_be_broken(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    write(path, [record(1)])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-9])
    assert read_log(path) == [record(1)]
    path.write_bytes(whole + b'{"prompt": []}\n' + whole)
    with pytest.raises(ConfigError, match=r"l\.jsonl, line 2: Object missing"):
        read_log(path)
    path.write_bytes(whole.replace(b'"output":4', b'"output":0'))
    with pytest.raises(ConfigError, match="line 1: an empty prompt or answer"):
        read_log(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_log(tmp_path / "none")


def test_a_predictor_is_of_one_model() -> None:
    log = [record(1, model="a"), record(2, model="b")]
    assert of_one_model(log, "b") == [record(2, model="b")]
    assert of_one_model(log[:1], None) == log[:1]
    with pytest.raises(ConfigError, match="choose one: the log has a, b"):
        of_one_model(log, None)
    with pytest.raises(ConfigError, match="no answer of c"):
        of_one_model(log, "c")
