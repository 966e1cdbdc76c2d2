"""What the experiments leave behind: one JSON file each, its records typed and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from rondo.errors import ConfigError

NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Latency = NonNegative | None  # None: no request got so far


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a result file; unknown fields are left alone."""


class Goodput(Record, frozen=True, kw_only=True):
    """Highest rate (requests/s) whose attainment, a mean over seeds, meets the target.

    `low` and `high` are the least and the greatest of the seeds' own goodputs.
    """

    dataset: str
    target: Share
    rate: NonNegative
    low: NonNegative
    high: NonNegative


class SystemGoodput(Goodput, frozen=True, kw_only=True):
    """Goodput of a system, by its policy's name."""

    system: str


class GridRecord(SystemGoodput, frozen=True, kw_only=True):
    """One cell of the end-to-end grid; `dips` are lower rates at which the target was missed."""

    model: str
    gpu: str
    dips: list[float] = []
    tuned: dict[str, float] = {}
    instances: int = 8


class CurveRecord(Record, frozen=True, kw_only=True):
    """Attainment (shares) and latency percentiles (seconds) at one offered rate."""

    dataset: str
    system: str
    rate: NonNegative
    attainment: Share
    attainment_ttft: Share
    attainment_tpot: Share
    ttft_p50: Latency
    ttft_p99: Latency
    tpot_p50: Latency
    tpot_p99: Latency


class SloRecord(SystemGoodput, frozen=True, kw_only=True):
    """Goodput under one objective."""

    ttft_s: NonNegative
    tpot_s: NonNegative


class BurstRecord(SystemGoodput, frozen=True, kw_only=True):
    """Goodput under Gamma arrivals of one coefficient of variation."""

    cv: NonNegative


class ScaleRecord(SystemGoodput, frozen=True, kw_only=True):
    """Goodput of a cluster of one size."""

    model: str
    instances: Annotated[int, msgspec.Meta(ge=1)]


class AblationRecord(Goodput, frozen=True, kw_only=True):
    """Goodput with one part of the policy exchanged."""

    variant: str


class LengthsRecord(Goodput, frozen=True, kw_only=True):
    """Goodput with instances in so many classes of predicted length (0: all alike), by what was
    predicted; of the `ceiling`, what no schedule exceeds for long."""

    model: str
    gpu: str
    prediction: str
    classes: Annotated[int, msgspec.Meta(ge=0)]


class InstancesRecord(Record, frozen=True, kw_only=True):
    """With how many `instances` a system holds an offered rate (requests/s) at a target, and what
    it attains there; None: with none of those that were tried."""

    system: str
    instance_policy: str
    dataset: str
    target: Share
    prediction: str
    rate: NonNegative
    instances: Annotated[int, msgspec.Meta(ge=1)] | None
    attainment: Share
    tuned: dict[str, float | str]


class BeyondRecord(Record, frozen=True, kw_only=True):
    """Named numbers of a check that the paper does not make."""

    check: str
    dataset: str
    system: str
    values: dict[str, float | None]


class MitosisRecord(Record, frozen=True, kw_only=True):
    """A point of a series over time (seconds), or an event with its text."""

    series: str
    t_s: float
    value: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        """Every point has a value, every event a text."""
        if self.series == "event" and not self.text:
            raise ValueError("an event needs the field `text`")
        if self.series != "event" and self.value is None:
            raise ValueError("a point of a series needs the field `value`")


class ParityRecord(Record, frozen=True, kw_only=True):
    """A metric live and simulated; `error` is relative, for attainments a difference of shares."""

    workload: str
    metric: str
    live: float
    simulated: float
    error: float


class SpeedRecord(Record, frozen=True, kw_only=True):
    """How fast something ran."""

    what: str
    value: float
    unit: str
    command: str


R = TypeVar("R", bound=Record)


class Experiment(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """One result file: what made it, and its records."""

    experiment: str
    command: str
    machine: str
    seeds: list[int]
    requests: int
    records: list[R]


#: The experiments in the order of the report, with the type of their records.
RECORD_TYPES: dict[str, type[Record]] = {
    "grid": GridRecord,
    "curves": CurveRecord,
    "slo": SloRecord,
    "bursts": BurstRecord,
    "scale": ScaleRecord,
    "ablations": AblationRecord,
    "lengths": LengthsRecord,
    "instances": InstancesRecord,
    "beyond": BeyondRecord,
    "mitosis": MitosisRecord,
    "parity": ParityRecord,
    "speed": SpeedRecord,
}


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Every experiment that is there, by name, and the notes to stand beside them."""

    experiments: dict[str, Experiment[Any]]
    notes: dict[str, str]

    def records(self, name: str, record_type: type[R]) -> list[R]:
        """The records of an experiment; none when its file is missing."""
        experiment = self.experiments.get(name)
        if experiment is None:
            return []
        assert RECORD_TYPES[name] is record_type
        return experiment.records


def load_results(folder: Path) -> Results:
    """Reads `<experiment>.json` of every experiment that is there, and `notes.toml`.

    Raises:
        ConfigError: the folder is missing or has no result, or a file is not as it should be; names
            the file and the field.
    """
    if not folder.is_dir():
        raise ConfigError("--results", f"{folder} is no folder")
    experiments = {
        name: _load(path, name, record_type)
        for name, record_type in RECORD_TYPES.items()
        if (path := folder / f"{name}.json").exists()
    }
    if not experiments:
        raise ConfigError("--results", f"{folder} holds none of {', '.join(RECORD_TYPES)} (.json)")
    return Results(experiments=experiments, notes=_load_notes(folder / "notes.toml"))


def _load(path: Path, name: str, record_type: type[Record]) -> Experiment[Any]:
    try:
        experiment = msgspec.json.decode(
            path.read_bytes(),
            type=Experiment[record_type],  # type: ignore[valid-type]
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
        raise ConfigError(str(path), str(error)) from error
    if experiment.experiment != name:
        raise ConfigError(str(path), f"`experiment` is {experiment.experiment!r}, not {name!r}")
    _check_goodputs(path, experiment.records)
    return experiment


def _check_goodputs(path: Path, records: Sequence[Record]) -> None:
    """Refuses an interval upside down, and a second goodput of a case: a table shows one."""
    seen: dict[Hashable, int] = {}
    for index, record in enumerate(records):
        if not isinstance(record, Goodput):
            return
        if record.low > record.high:
            raise ConfigError(str(path), f"`low` above `high` - at `$.records[{index}]`")
        key = _case(record)
        if key in seen:
            problem = f"`$.records[{index}]` is of the same case as `$.records[{seen[key]}]`"
            raise ConfigError(str(path), problem)
        seen[key] = index


def _case(record: Goodput) -> Hashable:
    measured = {"rate", "low", "high", "dips", "tuned"}
    fields = [name for name in record.__struct_fields__ if name not in measured]
    return tuple(getattr(record, name) for name in fields)


def _load_notes(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        notes = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), str(error)) from error
    for key, text in notes.items():
        if key not in RECORD_TYPES:
            raise ConfigError(str(path), f"`{key}` is no experiment")
        if not isinstance(text, str):
            raise ConfigError(str(path), f"`{key}` is no text")
    return notes


T = TypeVar("T")


def in_order(values: Sequence[T], known: Sequence[T]) -> list[T]:
    """The different values: known ones in their order, then the others sorted as text."""
    present = list(dict.fromkeys(values))
    others = sorted((value for value in present if value not in known), key=str)
    return [value for value in known if value in present] + others


def rank(name: str, known: Sequence[str]) -> tuple[int, str]:
    """Sort key: known names in their order, then the others."""
    return (known.index(name) if name in known else len(known), name)
