"""The form that an answer must have: response_format, guided_*, structured_outputs, as grammars.

Grammars are llguidance's, checked here, so that a bad schema is the client's 400 and never an
engine's trouble. JSON comes with ", " and ": " between its parts, as json.dumps writes it: with
free whitespace a small model can go on with blanks for ever.

Surface: `Structure`, `StructureFields` (mixed into bodies), `compile_structure`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Literal

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from pydantic import Field

from rondo.grammar import INITIAL_FUEL, MAX_STATES, STEP_FUEL
from rondo_gateway.errors import invalid
from rondo_gateway.fields import JsonObject, JsonSchema, Text, unsupported
from rondo_gateway.json_schema import closed
from rondo_gateway.messages import Strict

#: Longest source of a grammar, in characters.
MAX_SOURCE_CHARS = 200_000
MAX_CHOICES = 1_000
_COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Kind = Literal["json", "regex", "lark"]
Source = Annotated[Text, Field(min_length=1)]
Choices = Annotated[list[Source], Field(min_length=1, max_length=MAX_CHOICES)]


@dataclass(frozen=True, slots=True)
class Structure:
    """The source of a grammar, and the request's field it came from."""

    kind: Kind
    source: str
    param: str


class JsonSchemaFormat(Strict):
    """OpenAI's response_format.json_schema."""

    name: Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """OpenAI's response_format."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Strict):
    """vLLM's structured_outputs; one of its fields."""

    json_: Annotated[JsonSchema, Field(alias="json")] = None
    regex: Source | None = None
    choice: Choices | None = None
    grammar: Source | None = None
    json_object: bool | None = None
    structural_tag: Annotated[Any, unsupported()] = None


class StructureFields(Strict):
    """The fields of a body that ask for a form; at most one of them may."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema = None
    guided_regex: Source | None = None
    guided_choice: Choices | None = None
    guided_grammar: Source | None = None
    guided_whitespace_pattern: Annotated[Any, unsupported()] = None

    def structure(self) -> Structure | None:
        """What is asked for, if anything.

        Raises:
            ApiError: 400, more than one form, or one without its schema.
        """
        asked = _response_format(self.response_format)
        asked += _guided(
            "guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar
        )
        if (other := self.structured_outputs) is not None:
            prefix = "structured_outputs."
            asked += _guided(prefix, other.json_, other.regex, other.choice, other.grammar)
            if other.json_object:
                asked.append(Structure("json", '{"type":"object"}', f"{prefix}json_object"))
        if len(asked) > 1:
            message = f"'{asked[0].param}' and '{asked[1].param}' cannot be combined."
            raise invalid(message, asked[1].param)
        return asked[0] if asked else None


async def compile_structure(structure: Structure) -> str:
    """The grammar as engines take it.

    Raises:
        ApiError: 400 that names the field and says what is wrong with it.
    """
    if len(structure.source) > MAX_SOURCE_CHARS:
        message = f"Invalid '{structure.param}': longer than {MAX_SOURCE_CHARS} characters."
        raise invalid(message, structure.param)
    # In a thread: most take a millisecond, some have been made to take many.
    grammar, problem = await asyncio.to_thread(_compiled, structure.kind, structure.source)
    if problem:
        raise invalid(f"Invalid '{structure.param}': {problem}", structure.param)
    return grammar


def lark_json(schema: dict[str, Any]) -> str:
    """A JSON value of this schema, as a term of a Lark grammar."""
    return f"%json {json.dumps({**closed(schema), 'x-guidance': _COMPACT})}"


@lru_cache(maxsize=256)
def _compiled(kind: Kind, source: str) -> tuple[str, str]:
    """The grammar, and what is wrong with it."""
    if kind == "json":
        try:
            schema = json.dumps(closed(json.loads(source)))
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_COMPACT)
        except (ValueError, RecursionError) as error:
            return "", f"is no JSON schema: {error}"
    elif kind == "regex":
        grammar = LLMatcher.grammar_from_regex(source)
    else:
        try:
            grammar = LLMatcher.grammar_from_lark(any_to_lark(source))
        except Exception as error:  # the converter of GBNF raises no narrower class
            return "", f"is no grammar in Lark's syntax or GBNF: {error}"
    problem = LLMatcher.validate_grammar(grammar) or _begin(grammar)
    return grammar, " ".join(problem.split())


def _begin(grammar: str) -> str:
    """What goes wrong with the first two tokens; a grammar may be valid and have too many states.

    What is found later ends the request at the engine.
    """
    limits = LLParserLimits(
        initial_lexer_fuel=INITIAL_FUEL,
        step_lexer_fuel=STEP_FUEL,
        max_lexer_states=MAX_STATES,
        verbose_errors=False,
    )
    matcher = LLMatcher(_bytes(), grammar, log_level=0, limits=limits)
    if not matcher.is_stopped():
        allowed = int.from_bytes(matcher.compute_bitmask(), "little")
        lowest = (allowed & -allowed).bit_length() - 1
        if lowest >= 0 and matcher.consume_token(lowest) and not matcher.is_stopped():
            matcher.compute_bitmask()
    return matcher.get_error()


@cache
def _bytes() -> LLTokenizer:
    """A vocabulary of single bytes; whose tokens they are does not matter here."""
    return LLTokenizer("byte")


def _response_format(wanted: ResponseFormat | None) -> list[Structure]:
    if wanted is None or wanted.type == "text":
        return []
    if wanted.type == "json_object":
        return [Structure("json", '{"type":"object"}', "response_format")]
    if wanted.json_schema is None:
        param = "response_format.json_schema"
        raise invalid(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    schema = wanted.json_schema.schema_
    source = json.dumps({"type": "object"} if schema is None else schema)
    return [Structure("json", source, "response_format.json_schema.schema")]


def _guided(
    prefix: str,
    schema: str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
) -> list[Structure]:
    asked = []
    if schema is not None:
        asked.append(Structure("json", schema, f"{prefix}json"))
    if regex is not None:
        asked.append(Structure("regex", regex, f"{prefix}regex"))
    if choice is not None:
        options = " | ".join(json.dumps(option) for option in choice)
        asked.append(Structure("lark", f"start: {options}", f"{prefix}choice"))
    if grammar is not None:
        asked.append(Structure("lark", grammar, f"{prefix}grammar"))
    return asked
