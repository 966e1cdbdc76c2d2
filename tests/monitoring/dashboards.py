"""The queries of deploy/compose/grafana/dashboards, with Grafana's variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.monitoring.prometheus import COMPOSE

FOLDER = COMPOSE / "grafana" / "dashboards"
BOARDS: dict[str, Any] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}
#: What Grafana puts in place of its variables: "All", and a window of some scrapes.
FILLED = {"$__rate_interval": "15s", "$model": ".*", "$instance": ".*"}


@dataclass(frozen=True)
class Query:
    """One of a panel's."""

    board: str
    panel: str
    expr: str

    def __str__(self) -> str:
        return f"{self.board}: {self.panel}"

    @property
    def filled(self) -> str:
        text = self.expr
        for name, value in FILLED.items():
            text = text.replace(name, value)
        assert "$" not in text, f"{self}: nobody knows a variable of {text}"
        return text


def panels(board: Any) -> Iterator[Any]:
    for panel in board["panels"]:
        yield from panel.get("panels", [])
        if panel["type"] != "row":
            yield panel


def queries() -> list[Query]:
    return [
        Query(name, panel["title"], target["expr"])
        for name, board in BOARDS.items()
        for panel in panels(board)
        for target in panel["targets"]
    ]


def metrics_in(expr: str) -> set[str]:
    """Names of metrics in a query, or any text."""
    return set(re.findall(r"\b((?:rondo|process)_\w+|up)\b(?!\s*\()", expr))
