"""A model's chat template: messages in, prompt text out, as transformers renders it.

Surface: `ChatTemplate(source, special_tokens)` compiles once; `render(messages, ...) -> str`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from rondo.errors import ModelError
from rondo_gateway.errors import ApiError, invalid
from rondo_gateway.text.tool_parsers import parser_for_template


class ChatTemplate:
    """A compiled chat template.

    The template comes with the model's files and is not trusted: it runs in jinja2's sandbox and
    sees plain JSON values only.

    Args:
        source: the template's text.
        special_tokens: what the template may refer to: ``bos_token``, ``eos_token``, ...

    Attributes:
        tool_parser: the format in which its model calls tools; None if it takes no tools.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as exc:
            problem = f"line {exc.lineno} is no valid jinja2: {exc.message}"
            raise ModelError("chat template", problem) from exc
        self._special_tokens = dict(special_tokens)
        self._knows_developer = "developer" in source
        self.tool_parser = parser_for_template(source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt for `messages`.

        OpenAI's role "developer" is the newer name of "system" and is rendered as such, unless
        the template itself mentions it.

        Args:
            tools: definitions of tools, for templates that show them to the model.
            options: further variables, e.g. {"enable_thinking": False}; they replace nothing.

        Raises:
            ApiError: 400 with the template's own words when it refuses the messages.
            ModelError: the template tried to leave the sandbox.
        """
        try:
            return self._template.render(
                {
                    **(options or {}),
                    **self._special_tokens,
                    "messages": [self._plain(message) for message in messages],
                    "tools": [dict(tool) for tool in tools] or None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except _Refusal as exc:
            raise _cannot_render(str(exc)) from exc
        except SecurityError as exc:
            raise ModelError("chat template", f"forbidden operation: {exc}") from exc
        except Exception as exc:
            # Whatever else a template trips over was not foreseen by its author; mostly a message
            # of a shape that this model was not made for.
            raise _cannot_render(f"{type(exc).__name__}: {exc}") from exc

    def _plain(self, message: Mapping[str, Any]) -> dict[str, Any]:
        plain = dict(message)
        if plain.get("role") == "developer" and not self._knows_developer:
            plain["role"] = "system"
        return plain


class _Refusal(TemplateError):
    """Raised by a template through raise_exception()."""


class _GenerationTag(Extension):
    """Accepts {% generation %} blocks, which mark the assistant's text for training."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _SafeNamespace(Namespace):
    """A namespace() without underscore names, which could lead into Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # Like the base class: no named parameter, so that namespace(self=1) works.
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_public(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


def _check_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"namespace attribute {name!r}")


def _environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that chat templates are written for."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _SafeNamespace
    environment.globals["dict"] = _make_dict
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: jinja2's own filter escapes HTML, which models were not trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise _Refusal(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """The dict() of templates, without the attributes of the class."""
    return dict(*args, **kwargs)


def _cannot_render(reason: str) -> ApiError:
    return invalid(f"The model's chat template refuses these messages: {reason}", "messages")
