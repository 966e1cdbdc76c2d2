"""Field types of the request bodies: what OpenAI lets a client write in several ways.

Surface: the annotated types used by `rondo_gateway.schemas`. Each takes the client's JSON value
and yields one plain form; a wrong value is refused under the field's own name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator
from pydantic_core import PydanticCustomError

MAX_STOPS = 16
MAX_PROMPTS = 256


def _encodable(text: str) -> str:
    """Refuse lone surrogates: JSON can spell them, but no tokenizer takes them."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid Unicode text (it has a lone surrogate)") from None
    return text


def _parse_content(value: Any) -> str | None:
    """Take a string, or a list of text parts, which are joined by newlines as vLLM does."""
    if value is None:
        return None
    if isinstance(value, str):
        return _encodable(value)
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of text parts")
    return "\n".join([_parse_part(index, part) for index, part in enumerate(value)])


def _parse_part(index: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise PydanticCustomError(
            "unsupported_content",
            "part {index} is not a text part; only text is supported",
            {"index": index},
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError(f"part {index} needs a string 'text'")
    return _encodable(text)


def _parse_stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("must be a non-empty string or a list of them")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"must have at most {MAX_STOPS} strings")
    return tuple(_encodable(stop) for stop in stops)


def _parse_prompt(value: Any) -> tuple[str | list[int], ...]:
    """Take a string, ids, or a list of either; one list does not mix them."""
    if isinstance(value, str):
        return (_encodable(value),)
    if isinstance(value, list) and value:
        if len(value) > MAX_PROMPTS and not _are_ids(value):
            raise ValueError(f"must have at most {MAX_PROMPTS} prompts")
        if all(isinstance(item, str) for item in value):
            return tuple(_encodable(item) for item in value)
        if _are_ids(value):
            return (value,)
        if all(isinstance(item, list) and item and _are_ids(item) for item in value):
            return tuple(value)
    raise ValueError(
        "must be a string, a list of strings, a list of token ids or a list of lists of token ids"
    )


def _are_ids(value: list[Any]) -> bool:
    return all(type(item) is int for item in value)  # a bool is an int, but no id


def _parse_arguments(value: Any) -> dict[str, Any]:
    """Take a call's arguments: JSON text with OpenAI, an object for chat templates."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object, as text or as it is")
    return value


def unsupported(*neutral: Any) -> AfterValidator:
    """Return a check that refuses a parameter unless its value changes nothing."""

    def check(value: Any) -> Any:
        if value is None or any(type(value) is type(same) and value == same for same in neutral):
            return value
        raise PydanticCustomError("unsupported_parameter", "this parameter is not supported")

    return AfterValidator(check)


def between(low: float, high: float) -> AfterValidator:
    """Return a check for low <= number <= high, which NaN fails."""

    def check(value: float | None) -> float | None:
        if value is None or low <= value <= high:
            return value
        raise ValueError(f"must be from {low:g} to {high:g}")

    return AfterValidator(check)


def _checker(check: Callable[[Any], Any]) -> PlainValidator:
    return PlainValidator(check, json_schema_input_type=Any)


Text = Annotated[str, AfterValidator(_encodable)]
Content = Annotated[str | None, _checker(_parse_content)]
Stops = Annotated[tuple[str, ...], _checker(_parse_stop)]
Prompts = Annotated[tuple[str | list[int], ...], _checker(_parse_prompt)]
Arguments = Annotated[dict[str, Any], _checker(_parse_arguments)]
