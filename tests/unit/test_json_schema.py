"""Which objects of a schema are closed, and which are left open."""

from __future__ import annotations

from typing import Any

import pytest

from rondo_gateway.json_schema import closed

NAMED: dict[str, Any] = {"properties": {"a": {"type": "integer"}}}
CLOSED = {**NAMED, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (NAMED, CLOSED),
        ({"type": "object"}, {"type": "object"}),
        ({"type": "array", "items": NAMED}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [NAMED, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        (
            {"$defs": {"x": NAMED}, "$ref": "#/$defs/x"},
            {"$defs": {"x": CLOSED}, "$ref": "#/$defs/x"},
        ),
        ({**NAMED, "additionalProperties": NAMED}, {**NAMED, "additionalProperties": CLOSED}),
        ({**NAMED, "additionalProperties": True}, {**NAMED, "additionalProperties": True}),
        ({**NAMED, "patternProperties": {}}, {**NAMED, "patternProperties": {}}),
        ({"allOf": [NAMED, NAMED]}, {"allOf": [NAMED, NAMED]}),
        ({"enum": [NAMED]}, {"enum": [NAMED]}),
        (True, True),
    ],
)
def test_closed(schema: Any, expected: Any) -> None:
    assert closed(schema) == expected


def test_a_property_may_be_called_properties() -> None:
    inner = {"type": "object", "properties": {"properties": NAMED}}
    assert closed(inner) == {
        "type": "object",
        "properties": {"properties": CLOSED},
        "additionalProperties": False,
    }
