"""What a benchmark leaves behind: a line of JSON for each thing that was measured.

The file is written run by run, so that one that was interrupted goes on where it was, and a page
can be made of it at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from rondo.errors import ConfigError


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="setup"):
    """What all runs of a file have in common.

    Args:
        scale: of prompt and answer lengths.
        settle_s: requests that come earlier than this in a run load the side and do not count.
        run_s: how long those that count go on arriving.
        ratio: between neighbouring rates.
        machine, versions: of the first start; they may differ when a file is gone on with.
    """

    engine: str
    dtype: str
    compiled: bool
    kv_mib: int
    scale: float
    settle_s: float
    run_s: float
    ratio: float
    machine: str = ""
    versions: str = ""

    def same_as(self, other: Header) -> bool:
        """Whether runs of both belong together."""
        blank = {"machine": "", "versions": ""}
        ours = msgspec.structs.replace(self, **blank)
        return ours == msgspec.structs.replace(other, **blank)


class Unloaded(msgspec.Struct, frozen=True, kw_only=True, tag="unloaded"):
    """A workload's mean request alone on `side`, and the objectives that follow.

    `ttft_s`, `tpot_s`: medians as the client saw them. `base_rate`: step 0 of the rates.
    """

    workload: str
    side: str
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float
    ttft_limit_s: float
    tpot_limit_s: float
    base_rate: float


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Which run: `step` of the grid is `rate` requests a second."""

    workload: str
    side: str
    seed: int
    step: int
    rate: float


class Run(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """One run: the fields of its `Cell`, attainment, and why requests missed.

    `attainment` is of `offered`. `missed_ttft`, `missed_tpot`: counts of completed requests beyond
    that limit, both where both were missed. CPU seconds cover the whole run.
    """

    workload: str
    side: str
    seed: int
    step: int
    rate: float
    offered: int
    attainment: float
    refused: int
    failed: int
    missed_ttft: int
    missed_tpot: int
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    late_p99_s: float | None
    duration_s: float
    engine_cpu_s: float
    front_cpu_s: float
    client_cpu_s: float
    load_average: float


def by_seed(runs: Sequence[Run], workload: str, side: str) -> dict[int, dict[int, float]]:
    """Attainment by step, of each seed."""
    found: dict[int, dict[int, float]] = {}
    for run in runs:
        if (run.workload, run.side) == (workload, side):
            found.setdefault(run.seed, {})[run.step] = run.attainment
    return found


Line = Header | Unloaded | Run
_decode = msgspec.json.Decoder(Line).decode


class Store:
    """The file of a benchmark, and what it holds.

    Raises:
        ConfigError: the file is of another setup, or no such file at all; names `--runs-file`.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header
        self.unloaded: dict[str, Unloaded] = {}
        self.runs: list[Run] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read()
        else:
            self._append(header)

    @classmethod
    def open(cls, path: Path) -> Store:
        """The file of a benchmark that has run, whatever its options were."""
        lines = path.read_bytes().splitlines()[:1]
        if not lines:
            raise ConfigError("--runs-file", f"{path} is empty")
        try:
            header = msgspec.json.decode(lines[0], type=Header)
        except msgspec.DecodeError as error:
            raise ConfigError("--runs-file", f"{path} has no runs: {error}") from error
        return cls(path, header)

    def rate(self, workload: str, step: int) -> float:
        """Requests a second at a step of a workload's grid."""
        return self.unloaded[workload].base_rate * self.header.ratio**step

    def add(self, line: Unloaded | Run) -> None:
        """Keeps it, on disk too."""
        self._take(line)
        self._append(line)

    def _read(self) -> None:
        try:
            lines = [_decode(line) for line in self.path.read_bytes().splitlines()]
        except msgspec.DecodeError as error:
            raise ConfigError("--runs-file", f"{self.path}: {error}") from error
        if not lines or not isinstance(lines[0], Header) or not lines[0].same_as(self.header):
            raise ConfigError("--runs-file", f"{self.path} has runs of other options")
        self.header = lines[0]
        for line in lines[1:]:
            self._take(line)

    def _take(self, line: Line) -> None:
        if isinstance(line, Unloaded):
            self.unloaded[line.workload] = line
        elif isinstance(line, Run):
            self.runs.append(line)

    def _append(self, line: Line) -> None:
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
