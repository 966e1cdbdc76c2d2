"""Reads one tool call, a JSON object, while its text arrives: name first, arguments as they come.

Surface: `CallScanner`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

#: What model families call the arguments.
ARGUMENT_KEYS = ("arguments", "parameters", "args")
_SPACE = " \t\r\n"


class CallScanner:
    r"""A call such as {"name": "f", "arguments": {...}}, a character at a time.

    Arguments are passed on as the model wrote them, so that a client can show them early; if they
    are a string with JSON inside, as its content. A call without any has "{}".

    Attributes:
        name: once it is known.
        done: the object is complete. failed: it is no such object.
        between: the last value has ended, and nothing after it has come yet.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.done = False
        self.failed = False
        self.between = False
        self._state: Callable[[str], None] = self._start
        self._key = ""
        self._value: list[str] = []
        self._depth = 0
        self._in_string = self._escaped = self._scalar = False
        self._arguments: list[str] = []
        self._any_arguments = False

    def feed(self, char: str) -> None:
        """Takes the next character."""
        if not (self.done or self.failed):
            self._state(char)

    def take_arguments(self) -> str:
        """The text of the arguments since the last call; nothing before the name is known."""
        if self.name is None:
            return ""
        text, self._arguments = "".join(self._arguments), []
        if self.done and not self._any_arguments:
            text, self._any_arguments = "{}", True
        return text

    def _start(self, char: str) -> None:
        if char == "{":
            self._state = self._before_key
        elif char not in _SPACE:
            self.failed = True

    def _before_key(self, char: str) -> None:
        self.between = False
        if char == '"':
            self._value, self._in_string, self._escaped = [char], True, False
            self._state = self._in_key
        elif char == "}":
            self.done = self.name is not None
            self.failed = not self.done
        elif char not in _SPACE and char != ",":
            self.failed = True

    def _in_key(self, char: str) -> None:
        self._value.append(char)
        self._track(char)
        if not self._in_string:
            self._key = self._parsed() or ""
            self._state = self._colon

    def _colon(self, char: str) -> None:
        if char == ":":
            self._state = self._before_value
        elif char not in _SPACE:
            self.failed = True

    def _before_value(self, char: str) -> None:
        if char in _SPACE:
            return
        self._value, self._depth, self._in_string, self._escaped = [], 0, False, False
        self._scalar = char not in '{["'
        self._state = self._in_value
        self._in_value(char)

    def _in_value(self, char: str) -> None:
        if self._scalar and char in ",}":
            self._end_value()
            self._before_key(char)
            return
        streamed = self._key in ARGUMENT_KEYS and not self._scalar
        if streamed and (self._depth or char == "{"):
            self._arguments.append(char)
            self._any_arguments = True
        else:
            self._value.append(char)
        self._track(char)
        if not (self._scalar or self._in_string or self._depth):
            self._end_value()

    def _track(self, char: str) -> None:
        """Follows strings and nesting."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1

    def _end_value(self) -> None:
        self._state = self._before_key
        self.between = True
        if self._key == "name":
            self.name = self._parsed()
            self.failed = self.name is None
        elif self._key in ARGUMENT_KEYS and self._value and self._value[0] == '"':
            text = self._parsed()
            if text is not None:
                self._arguments.append(text)
                self._any_arguments = True

    def _parsed(self) -> str | None:
        """The collected value, if it is a string."""
        try:
            value = json.loads("".join(self._value))
        except json.JSONDecodeError:
            self.failed = True
            return None
        return value if isinstance(value, str) else None
