"""Result files: one JSON a experiment, with what it was made by."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from rondo_bench.experiments.search import Record


def write(
    folder: Path,
    experiment: str,
    records: Sequence[Record],
    *,
    seeds: Sequence[int],
    requests: int,
    options: Sequence[str] = (),
) -> Path:
    """Writes `<experiment>.json`; records are in a fixed order.

    Args:
        options: those of the command that the records depend on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{experiment}.json"
    ordered = sorted(records, key=lambda record: json.dumps(record, sort_keys=True))
    content = {
        "experiment": experiment,
        "command": " ".join(["rondo-bench experiment", experiment, *options]),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "seeds": list(seeds),
        "requests": requests,
        "records": ordered,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def with_others(folder: Path, records: Sequence[Record]) -> list[Record]:
    """Records of the grid, and those that its file has of other cases, systems and targets."""
    path = folder / "grid.json"
    known = json.loads(path.read_text())["records"] if path.exists() else []
    measured = {_case(record) for record in records}
    return [*records, *(record for record in known if _case(record) not in measured)]


def _case(record: Record) -> tuple[object, ...]:
    return tuple(record[key] for key in ("model", "gpu", "dataset", "target", "system"))
