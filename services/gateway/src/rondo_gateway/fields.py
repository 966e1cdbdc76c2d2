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
#: Texts to embed in one request; OpenAI's limit, and clients send as many.
MAX_INPUTS = 2048
MAX_BIASES = 1024
#: Of the input of a response.
MAX_ITEMS = 2_000
#: Alternatives that may be asked for beside each token.
MAX_LOGPROBS = 20


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
    return _parse_texts(value, MAX_PROMPTS, "prompts")


def _parse_input(value: Any) -> tuple[str | list[int], ...]:
    return _parse_texts(value, MAX_INPUTS, "inputs")


def _parse_texts(value: Any, most: int, name: str) -> tuple[str | list[int], ...]:
    """Take a string, ids, or a list of either; one list does not mix them."""
    if isinstance(value, str):
        return (_encodable(value),)
    if isinstance(value, list) and value:
        if len(value) > most and not _are_ids(value):
            raise ValueError(f"must have at most {most} {name}")
        if all(isinstance(item, str) for item in value):
            return tuple(_encodable(item) for item in value)
        if _are_ids(value):
            return (value,)
        if all(isinstance(item, list) and item and _are_ids(item) for item in value):
            return tuple(value)
    raise ValueError(
        "must be a string, a list of strings, a list of token ids or a list of lists of token ids"
    )


def _parse_items(value: Any) -> str | list[dict[str, Any]]:
    """Take a text, or a list of items, which are objects of many kinds."""
    if isinstance(value, str):
        return _encodable(value)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("must be a string or a list of items, which are objects")
    if len(value) > MAX_ITEMS:
        raise ValueError(f"must have at most {MAX_ITEMS} items")
    return [_parse_object(item) for item in value]


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


def _parse_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    _encodable(json.dumps(value, ensure_ascii=False))
    return value


def _parse_schema(value: Any) -> str | None:
    """Take a JSON schema: an object, or the text of one."""
    if value is None:
        return None
    if isinstance(value, str) and value:
        return _encodable(value)
    if not isinstance(value, dict):
        raise ValueError("must be a JSON schema, as an object or as its text")
    return json.dumps(_parse_object(value))


def _parse_biases(value: Any) -> tuple[tuple[int, float], ...]:
    """Take {token id as text: bias}, which JSON has no other way to write."""
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > MAX_BIASES:
        raise ValueError(f"must be an object of at most {MAX_BIASES} token ids and their biases")
    biases = []
    for key, bias in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10):
            raise ValueError("must have token ids as its keys")
        if type(bias) not in (int, float) or not -100 <= bias <= 100:
            raise ValueError(f"must have biases from -100 to 100; that of {key} is none")
        biases.append((int(key), float(bias)))
    return tuple(biases)


def _parse_token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not _are_ids(value) or len(value) > MAX_STOPS * 4:
        raise ValueError(f"must be a list of at most {MAX_STOPS * 4} token ids")
    return tuple(value)


def _parse_tool_choice(value: Any) -> str | None:
    """Take a word, or {"type": "function", "function": {"name": ...}}, as "function:name"."""
    if value is None or value in ("none", "auto", "required"):
        return value if isinstance(value, str) else None
    if isinstance(value, dict) and value.get("type") == "function":
        function = value.get("function", value)  # the Responses API has the name at its top
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str):
            return f"function:{_encodable(name)}"
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        raise PydanticCustomError("unsupported_parameter", "allowed_tools is not supported")
    raise ValueError("must be none, auto, required or a function by its name")


def _parse_logprobs_count(value: Any) -> int | None:
    """Take a count; false is what some clients send for none."""
    if value is None or value is False:
        return None
    if type(value) is not int or not 0 <= value <= MAX_LOGPROBS:
        raise ValueError(f"must be an integer from 0 to {MAX_LOGPROBS}")
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
Inputs = Annotated[tuple[str | list[int], ...], _checker(_parse_input)]
Items = Annotated[str | list[dict[str, Any]], _checker(_parse_items)]
Biases = Annotated[tuple[tuple[int, float], ...], _checker(_parse_biases)]
TokenIds = Annotated[tuple[int, ...], _checker(_parse_token_ids)]
JsonObject = Annotated[dict[str, Any], _checker(_parse_object)]
JsonSchema = Annotated[str | None, _checker(_parse_schema)]
LogprobsCount = Annotated[int | None, _checker(_parse_logprobs_count)]
ToolChoice = Annotated[str | None, _checker(_parse_tool_choice)]
Arguments = Annotated[dict[str, Any], _checker(_parse_arguments)]
