"""JSON schemas as they are meant: what is not named is not wanted.

JSON Schema lets an object have any properties beside those that are named. Clients who describe an
answer or the arguments of a function mean those and no others (OpenAI's strict mode demands that
they say so, vLLM's xgrammar takes it for granted), and a model that may go on inventing properties
does. So an object that names its properties, and says nothing of others, has no others.
"""

from __future__ import annotations

from typing import Any

#: Keywords whose value is a schema, a list of schemas, or schemas by name. Not `allOf`: closed
#: parts would exclude each other.
_SCHEMAS = ("items", "additionalProperties", "contains", "then", "else")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def closed(schema: Any) -> Any:
    """A copy of the schema in which objects have the properties that they name, and no others."""
    if not isinstance(schema, dict):
        return schema
    copy = dict(schema)
    for key in _SCHEMAS:
        if key in copy:
            copy[key] = closed(copy[key])
    for key in _LISTS:
        if isinstance(copy.get(key), list):
            copy[key] = [closed(part) for part in copy[key]]
    for key in _MAPS:
        if isinstance(copy.get(key), dict):
            copy[key] = {name: closed(part) for name, part in copy[key].items()}
    open_ended = ("additionalProperties", "patternProperties", "unevaluatedProperties", "allOf")
    if isinstance(copy.get("properties"), dict) and not any(key in copy for key in open_ended):
        copy["additionalProperties"] = False
    return copy
