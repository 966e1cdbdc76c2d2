"""rondo-bench replay: the events of a decision journal through a policy, decisions compared."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import msgspec

from rondo import __version__
from rondo.errors import ConfigError
from rondo.journal import Ending, JournalReader, Record
from rondo.policy import events
from rondo.policy.catalog import POLICY_NAMES, make_policy
from rondo.policy.events import Decision, MacroScheduler

CAVEAT = (
    "another policy's outcomes would differ: the events are what followed the recorded decisions,\n"
    "not what would have followed these; only the simulator can tell that"
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Decision).decode


@dataclass(slots=True)
class Counts:
    """Requests admitted, and refused by reason; an answer given twice counts once."""

    admitted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def add(self, decision: Decision) -> None:
        """Counts what a decision answers."""
        for effect in decision.effects:
            match effect:
                case events.Admit(request_id=request_id) if request_id not in self._seen:
                    self._seen.add(request_id)
                    self.admitted += 1
                case events.Reject(reason=reason):
                    self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
        total = sum(self.rejected.values())
        return f"{self.admitted} admitted, {total} rejected" + (f" ({reasons})" if reasons else "")


@dataclass(frozen=True, slots=True)
class Difference:
    """An event, counted from 1, whose decision came out otherwise."""

    number: int
    record: Record
    got: Decision


@dataclass(slots=True)
class Comparison:
    """The recorded decisions beside those of a replay."""

    num_events: int = 0
    num_equal: int = 0
    first: Difference | None = None
    recorded: Counts = field(default_factory=Counts)
    replayed: Counts = field(default_factory=Counts)


def replay(records: Iterable[Record], policy: MacroScheduler) -> Comparison:
    """Gives a fresh policy the events of a journal. Decisions are equal when every bit of them is.

    Raises:
        JournalError: the journal is damaged. Whatever the policy raises.
    """
    result = Comparison()
    for number, record in enumerate(records, 1):
        got = policy.handle(record.event)
        result.num_events = number
        result.recorded.add(record.decision)
        result.replayed.add(got)
        if _exact(got) == _exact(record.decision):
            result.num_equal += 1
        elif result.first is None:
            result.first = Difference(number, record, got)
    return result


def _exact(decision: Decision) -> bytes:
    """Equal for decisions that a journal cannot tell apart, and for no others.

    Bytes, for with == 0.0 is -0.0 and a NaN is not itself; of what a decoder makes of the decision,
    for a policy may return an int for a float.
    """
    return _encode(_decode(_encode(decision)))


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `replay` to the command line."""
    parser = commands.add_parser(
        "replay", help="replay a coordinator's decision journal and compare the decisions"
    )
    parser.add_argument("file", type=Path, help="a journal from the folder RONDO_JOURNAL names")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--policy", choices=POLICY_NAMES, help="replay through this policy, not the recorded one"
    )
    what.add_argument("--show", action="store_true", help="print the records as JSON lines")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code: 1 when the recorded policy decides otherwise now, else 0.

    Raises:
        ConfigError: the file cannot be read, or no such policy is there any more.
        JournalError: it is no journal, or is damaged.
    """
    try:
        reader = JournalReader(args.file)
        if args.show:
            return _show(reader)
        name = args.policy or reader.header.policy
        result = replay(reader, make_policy(name, reader.header.settings))
    except OSError as error:
        raise ConfigError("FILE", str(error)) from error
    print(_json(reader, name, result) if args.json else _text(reader, name, result))
    same_policy = name == reader.header.policy
    return 1 if same_policy and result.first is not None else 0


def _show(reader: JournalReader) -> int:
    try:
        for part in chain((reader.header,), reader):
            print(msgspec.json.encode(part).decode())
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; nothing is left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _text(reader: JournalReader, name: str, result: Comparison) -> str:
    header = reader.header
    lines = [
        f"journal of {header.macro_id}, epoch {header.epoch}, by {header.recorded_by}: "
        f"{header.policy}, Rondo {header.rondo_version}; {_ending(reader.ending)}",
        f"events {result.num_events}, equal {result.num_equal}",
    ]
    if header.rondo_version != __version__:
        lines.append(f"note: this is Rondo {__version__}")
    if name != header.policy:
        lines.append(f"recorded  {header.policy}: {result.recorded}")
        lines.append(f"replayed  {name}: {result.replayed}")
        lines.append(CAVEAT)
    if result.first:
        lines.append(f"first difference: event {result.first.number}")
        lines.append(f"  event     {result.first.record.event}")
        lines.append(f"  expected  {result.first.record.decision}")
        lines.append(f"  got       {result.first.got}")
    return "\n".join(lines)


def _json(reader: JournalReader, name: str, result: Comparison) -> str:
    """One object; events and decisions as Python writes them, for JSON has no infinity."""
    header, first = reader.header, result.first
    difference = first and {
        "number": first.number,
        "event": repr(first.record.event),
        "expected": repr(first.record.decision),
        "got": repr(first.got),
    }
    fields = {
        "macro_id": header.macro_id,
        "epoch": header.epoch,
        "recorded_by": header.recorded_by,
        "recorded_policy": header.policy,
        "policy": name,
        "rondo_version": header.rondo_version,
        "ending": reader.ending,
        "num_events": result.num_events,
        "num_equal": result.num_equal,
        "first_difference": difference,
        "outcomes_would_differ": name != header.policy,
        "recorded": _counts(result.recorded),
        "replayed": _counts(result.replayed),
    }
    return msgspec.json.encode(fields).decode()


def _counts(counts: Counts) -> dict[str, object]:
    return {"admitted": counts.admitted, "rejected": counts.rejected}


def _ending(ending: Ending | None) -> str:
    match ending:
        case Ending.CLOSED:
            return "complete"
        case Ending.FULL | Ending.SLOW | Ending.FAILED:
            return f"ended early: {ending.value}"
        case Ending.TORN:
            return "the last record is torn: its writer was killed"
    return "without an end: its writer still runs, or was killed"
