"""Programs decide by monotonic clocks: a step of the wall clock changes nothing."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ["shared/src", "services"]
WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now"}
#: What only shows the time: OpenAI's `created` fields, and the date in chat templates.
SHOWN = {
    "batches/batches_api.py",
    "batches/files_api.py",
    "batches/record.py",
    "responses_api/api.py",
    "rondo/tracing_otel.py",
    "rondo_gateway/app.py",
    "rondo_gateway/completions.py",
    "rondo_gateway/served.py",
    "text/chat_template.py",
}

#: A key is good until a date, and a date is the calendar's.
DATES = {"service/api_keys.py", "local/keys_cmd.py"}


def test_nothing_is_decided_by_the_wall_clock() -> None:
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in WALL:
                    found[f"{path.parent.name}/{path.name}"] = node.lineno
    assert set(found) <= SHOWN | DATES, found
    assert found, "the test looks for what is there"
