"""Decision journals: what is read is what was written, whatever happens to file and disk."""

from __future__ import annotations

import argparse
import json
import math
import os
import threading
import types
import typing
import zlib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo import journal, journal_writer
from rondo.errors import ConfigError
from rondo.journal import Ending, JournalError, JournalHeader, JournalReader, Record
from rondo.journal_writer import JournalFolder, JournalWriter
from rondo.policy import events
from rondo.policy.catalog import LIVE_POLICY_NAMES, PolicySettings, make_policy
from rondo.policy.events import Decision, Event
from rondo.types import LatencyModel, RequestInfo, Slo
from rondo_bench import replay_cmd
from rondo_bench.sim.wrapped import WrappedPolicy
from tests.support.virtual_cluster import PROFILE, VirtualCluster

JOIN_S = 10.0
HEADER = JournalHeader(
    macro_id="m", epoch=3, recorded_by="c", policy="padg", settings=PolicySettings()
)


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type that an event or a decision may hold."""
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=5),
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        type(None): st.none(),
    }
    arguments = typing.get_args(kind)
    if kind in plain:
        return plain[kind]
    if kind is LatencyModel:
        return PROFILES
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return st.one_of([anything(argument) for argument in arguments])
    if typing.get_origin(kind) is tuple:
        if arguments[-1] is ...:
            return st.lists(anything(arguments[0]), max_size=2).map(tuple)
        return st.tuples(*map(anything, arguments))
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    fields = {field.name: anything(field.type) for field in msgspec.structs.fields(kind)}
    return st.fixed_dictionaries(fields).map(lambda values: kind(**values))


PROFILES = st.builds(
    msgspec.structs.replace,
    st.just(PROFILE),
    name=st.text(max_size=5),
    prefill_floor_ms=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
    cpu_ms=st.floats(min_value=0.0),
    num_blocks=st.integers(min_value=1, max_value=2**40),
)
RECORDS = st.lists(
    st.builds(Record, event=anything(Event), decision=anything(Decision)), max_size=4
)


class Stops:
    """What a writer says when it gives up."""

    def __init__(self) -> None:
        self.told: list[tuple[Ending, str]] = []

    def __call__(self, ending: Ending, detail: str) -> None:
        self.told.append((ending, detail))


class Recorder(WrappedPolicy):
    """A policy that remembers what it was told and what it said."""

    def __init__(self, policy: events.MacroScheduler) -> None:
        super().__init__(policy)
        self.records: list[Record] = []

    def handle(self, event: Event) -> Decision:
        decision = super().handle(event)
        self.records.append(Record(event=event, decision=decision))
        return decision


def recorded(name: str = "padg", count: int = 30) -> list[Record]:
    """A short life of a cluster: bursts, a cancel, a death, a full queue."""
    recorder = Recorder(make_policy(name, HEADER.settings))
    cluster = VirtualCluster(recorder, 3, max_prefill_tokens=512)
    for index in range(count):
        cluster.submit(
            RequestInfo(
                request_id=f"r{index}",
                prompt_tokens=1 + 37 * index % 900,
                max_tokens=1 + 11 * index % 60,
                predicted_tokens=20,
                slo=Slo(ttft_s=0.5, tpot_s=0.05),
                arrival_s=0.3 * (index // 10),
            )
        )
    cluster.at(0.4, lambda: cluster.cancel("r5"))
    cluster.at(0.5, lambda: cluster.leave("i1"))
    cluster.run()
    return recorder.records


def write(path: Path, records: Sequence[Record], ending: Ending | None = None) -> bytes:
    """A file, without the thread."""
    frames = [journal.record_bytes(record.event, record.decision) for record in records]
    data = journal.header_bytes(HEADER) + b"".join(frames)
    data += journal.end_bytes(ending) if ending else b""
    path.write_bytes(data)
    return data


def finish(writer: JournalWriter) -> JournalReader:
    writer.close()
    assert writer.join(JOIN_S)
    return JournalReader(writer.path)


# Format


@given(records=RECORDS)
def test_what_is_read_is_what_was_written(
    records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.journal"
    write(path, records, Ending.CLOSED)
    reader = JournalReader(path)
    read = list(reader)
    assert read == records
    assert repr(read) == repr(records)  # -0.0 is not 0.0
    assert reader.header == HEADER
    assert reader.ending is Ending.CLOSED


def test_a_file_cut_anywhere_gives_the_whole_records_before_the_cut(tmp_path: Path) -> None:
    records = [Record(event=events.Tick(at_s=i / 7), decision=Decision()) for i in range(3)]
    path = tmp_path / "cut.journal"
    ends = [len(write(path, records[:count])) for count in range(len(records) + 1)]
    for size in range(ends[-1], -1, -1):
        os.truncate(path, size)
        if size < ends[0]:
            with pytest.raises(JournalError) as caught:
                JournalReader(path)
            assert caught.value.number == 0
            continue
        reader = JournalReader(path)
        whole = sum(end <= size for end in ends) - 1
        assert list(reader) == records[:whole]
        assert reader.ending is (Ending.OPEN if size in ends else Ending.TORN)


def test_each_damaged_byte_is_noticed_and_located(tmp_path: Path) -> None:
    records = [Record(event=events.Tick(at_s=i / 7), decision=Decision()) for i in range(2)]
    path = tmp_path / "damaged.journal"
    starts = [0, *(len(write(path, records[:count])) for count in range(len(records) + 1))]
    data = write(path, records, Ending.CLOSED)
    for index in range(len(data)):
        with path.open("r+b") as file:
            if index:
                file.seek(index - 1)
                file.write(data[index - 1 : index])
            file.write(bytes((data[index] ^ 0x10,)))
        with pytest.raises(JournalError) as caught:
            list(JournalReader(path))
        number = sum(start <= index for start in starts) - 1
        assert caught.value.number == number
        if number:
            assert caught.value.offset == starts[number]
            assert f"record {number} at byte {starts[number]}" in str(caught.value)


def test_other_files_and_other_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    path.write_bytes(b'{"not": "a journal"}')
    with pytest.raises(JournalError, match="no journal"):
        JournalReader(path)
    later = msgspec.structs.replace(HEADER, version=journal.SCHEMA_VERSION + 1)
    path.write_bytes(journal.header_bytes(later))
    with pytest.raises(JournalError, match=f"schema version {journal.SCHEMA_VERSION + 1}"):
        JournalReader(path)


def test_a_whole_record_that_means_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    payload = msgspec.msgpack.encode(["step", {"type": "Eclipse", "at_s": 1.0}, {}])
    summed = len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little")
    frame = summed + zlib.crc32(summed).to_bytes(4, "little") + payload
    path.write_bytes(write(path, recorded()[:2]) + frame)
    with pytest.raises(JournalError, match="record 3 .*Eclipse"):
        list(JournalReader(path))


# Writer


def test_the_writer_keeps_records_in_order_and_says_that_it_was_closed(tmp_path: Path) -> None:
    stops, records = Stops(), recorded()
    writer = JournalWriter(tmp_path / "new" / "a.journal", HEADER, stops)
    assert all(writer.append(record.event, record.decision) for record in records)
    reader = finish(writer)
    assert list(reader) == records
    assert reader.ending is Ending.CLOSED
    assert not writer.append(records[0].event, records[0].decision)
    assert stops.told == []


def test_records_are_on_disk_soon_without_a_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "FLUSH_INTERVAL_S", 0.001)
    written = threading.Event()

    class Watched:
        def __init__(self, file: BinaryIO) -> None:
            self._file = file
            self.name = file.name

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def writelines(self, frames: list[bytes]) -> None:
            self._file.writelines(frames)

        def flush(self) -> None:
            self._file.flush()
            if list(JournalReader(Path(self.name))):
                written.set()

    opened = journal_writer._open_new
    monkeypatch.setattr(journal_writer, "_open_new", lambda path: Watched(opened(path)))
    [record] = recorded()[:1]
    writer = JournalWriter(tmp_path / "a.journal", HEADER, Stops())
    writer.append(record.event, record.decision)
    assert written.wait(JOIN_S)
    assert finish(writer).ending is None


def test_a_full_journal_keeps_its_beginning(tmp_path: Path) -> None:
    stops, records = Stops(), recorded()
    writer = JournalWriter(tmp_path / "a.journal", HEADER, stops, max_bytes=4096)
    taken = [record for record in records if writer.append(record.event, record.decision)]
    reader = finish(writer)
    assert list(reader) == taken == records[: len(taken)]
    assert 0 < len(taken) < len(records)
    assert reader.ending is Ending.FULL
    assert 2048 < writer.path.stat().st_size <= 4096
    assert [ending for ending, _ in stops.told] == [Ending.FULL]


def test_a_disk_that_hangs_ends_the_journal_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_works, opened = threading.Event(), journal_writer._open_new

    def hanging(path: Path) -> BinaryIO:
        assert disk_works.wait(JOIN_S)
        return opened(path)

    monkeypatch.setattr(journal_writer, "_open_new", hanging)
    stops, records = Stops(), recorded()
    path = tmp_path / "a.journal"
    writer = JournalWriter(path, HEADER, stops, max_backlog_bytes=8192)
    taken = [record for record in records if writer.append(record.event, record.decision)]
    assert [ending for ending, _ in stops.told] == [Ending.SLOW]
    assert not writer.join(0.0)
    disk_works.set()
    reader = finish(writer)
    assert list(reader) == taken == records[: len(taken)]
    assert reader.ending is Ending.SLOW
    assert path.stat().st_size < 8192 + 64


@pytest.mark.parametrize("fault", ["folder", "disk"])
def test_a_write_that_fails_is_told_once_and_ends_the_journal(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "FLUSH_INTERVAL_S", 0.001)
    folder = tmp_path / "folder"
    if fault == "folder":
        folder.write_text("a file is in the way")
    else:
        full = Path("/dev/full")
        monkeypatch.setattr(journal_writer, "_open_new", lambda path: full.open("wb"))
    stops = Stops()
    writer = JournalWriter(folder / "a.journal", HEADER, stops)
    assert writer.join(JOIN_S)  # it gives up by itself
    for record in recorded()[:3]:
        assert not writer.append(record.event, record.decision)
    writer.close()
    [(ending, detail)] = stops.told
    assert ending is Ending.FAILED
    assert (str(folder / "a.journal") in detail) == (fault == "folder")
    assert ("No space left" in detail) == (fault == "disk")


def test_an_unknown_latency_model_ends_the_journal_only(tmp_path: Path) -> None:
    class Oracle:
        def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
            return 0.0

    stops, records = Stops(), recorded()
    joined = records[0].event
    assert isinstance(joined, events.InstanceJoined)
    instance = msgspec.structs.replace(joined.instance, latency=Oracle())
    writer = JournalWriter(tmp_path / "a.journal", HEADER, stops)
    assert writer.append(joined, records[0].decision)
    assert not writer.append(msgspec.structs.replace(joined, instance=instance), Decision())
    assert not writer.append(records[1].event, records[1].decision)
    reader = finish(writer)
    assert list(reader) == records[:1]
    assert reader.ending is Ending.FAILED
    [(ending, detail)] = stops.told
    assert ending is Ending.FAILED
    assert "Oracle" in detail


def test_a_folder_has_a_file_for_each_epoch_and_overwrites_none(tmp_path: Path) -> None:
    settings = PolicySettings(chunk_tokens=77)
    folder = JournalFolder(tmp_path / "j", "nodg-rr", settings, "c7", Stops())
    epochs = (1, 2, 2)  # a bus that lost its store counts anew
    writers = [folder.start("llama", epoch) for epoch in epochs]
    assert folder.close(JOIN_S)
    names = sorted(path.name for path in (tmp_path / "j").iterdir())
    assert names == ["llama-1-c7.journal", "llama-2-c7-2.journal", "llama-2-c7.journal"]
    for writer, epoch in zip(writers, epochs, strict=True):
        header = JournalReader(writer.path).header
        assert (header.policy, header.settings, header.epoch) == ("nodg-rr", settings, epoch)


# Replay


def bench(*words: str) -> int:
    """`rondo-bench replay ...`."""
    parser = argparse.ArgumentParser()
    replay_cmd.add_parser(parser.add_subparsers())
    args = parser.parse_args(["replay", *words])
    code: int = args.run(args)
    return code


@pytest.mark.parametrize("name", LIVE_POLICY_NAMES)
def test_each_policy_decides_the_same_again(name: str, tmp_path: Path) -> None:
    records = recorded(name)
    write(tmp_path / "a.journal", records)
    policy = make_policy(name, HEADER.settings)
    result = replay_cmd.replay(JournalReader(tmp_path / "a.journal"), policy)
    assert result.first is None
    assert result.num_equal == result.num_events == len(records) > 100
    assert result.recorded == result.replayed
    assert result.recorded.admitted > 10


@pytest.fixture
def changed(tmp_path: Path) -> tuple[Path, int]:
    """A journal in which one decision is not what the policy decides, and which that is."""
    records = recorded()
    number, admit = next(
        (number, effect)
        for number, record in enumerate(records, 1)
        for effect in record.decision.effects
        if number > 20 and isinstance(effect, events.Admit)
    )
    later_s = math.nextafter(admit.predicted_ttft_s, math.inf)
    effects = tuple(
        msgspec.structs.replace(admit, predicted_ttft_s=later_s) if effect is admit else effect
        for effect in records[number - 1].decision.effects
    )
    almost = msgspec.structs.replace(records[number - 1].decision, effects=effects)
    records[number - 1] = Record(event=records[number - 1].event, decision=almost)
    write(tmp_path / "changed.journal", records, Ending.CLOSED)
    return tmp_path / "changed.journal", number


def test_the_first_difference_is_shown(
    changed: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    path, number = changed
    assert bench(str(path)) == 1
    text = capsys.readouterr().out
    assert f"first difference: event {number}\n" in text
    expected, got = text.splitlines()[-2:]
    assert expected.startswith("  expected  Decision(")
    assert got.startswith("  got       Decision(")
    assert expected[12:] != got[12:]
    assert bench(str(path), "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["num_equal"] == result["num_events"] - 1
    assert result["first_difference"]["number"] == number
    assert result["ending"] == "closed"


def test_an_equal_replay_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = recorded()
    data = write(tmp_path / "a.journal", records)
    (tmp_path / "a.journal").write_bytes(data[:-1])
    assert bench(str(tmp_path / "a.journal")) == 0
    text = capsys.readouterr().out
    assert f"events {len(records) - 1}, equal {len(records) - 1}\n" in text
    assert "torn" in text
    assert "difference" not in text


@pytest.mark.parametrize("other", [name for name in LIVE_POLICY_NAMES if name != "padg"])
def test_another_policy_is_compared_with_a_caveat(
    other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.journal", recorded())
    assert bench(str(tmp_path / "a.journal"), "--policy", other) == 0
    text = capsys.readouterr().out
    assert "outcomes would differ" in text
    assert f"replayed  {other}: " in text
    assert bench(str(tmp_path / "a.journal"), "--policy", other, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["outcomes_would_differ"] is True
    assert result["recorded"] != result["replayed"] or result["first_difference"]


def test_show_prints_a_line_for_each_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = recorded()
    write(tmp_path / "a.journal", records)
    assert bench(str(tmp_path / "a.journal"), "--show") == 0
    head, *lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert head["macro_id"] == HEADER.macro_id
    kinds = [type(record.event).__name__ for record in records]
    assert [line["event"]["type"] for line in lines] == kinds


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        bench(str(tmp_path / "none"))
    gone = msgspec.structs.replace(HEADER, policy="oracle")
    (tmp_path / "a.journal").write_bytes(journal.header_bytes(gone))
    with pytest.raises(ConfigError, match="oracle"):
        bench(str(tmp_path / "a.journal"))
