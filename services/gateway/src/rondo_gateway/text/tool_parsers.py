"""Tool calls in the text of an answer, by model family, while it arrives.

Surface: `ToolParser`, `ToolDelta`, `FORMATS`, `parser_for_template`.

* ``hermes`` (Qwen, Hermes): ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, repeated.
* ``mistral``: ``[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]``, or of newer models
  ``[TOOL_CALLS]name[ARGS]{...}``, repeated.
* ``llama3_json``: the answer is ``{"name": ..., "parameters": {...}}``, several behind each other
  with ``;``, after ``<|python_tag|>`` or nothing.

What looks like a call but is none, or calls a tool that does not exist, comes out as text.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass

from rondo_gateway.text.call_scanner import CallScanner

_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """Something new of the call `index`; `name` and `call_id` come with its first one."""

    index: int
    arguments: str
    name: str | None = None
    call_id: str | None = None


Delta = str | ToolDelta


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a family writes calls.

    Attributes:
        begin: what calls begin with; optional where `bare`.
        end: what closes each call. separators: characters between calls behind one `begin`.
        bare: calls may stand at the start of the answer without `begin`.
        array: calls may stand in a JSON list. arguments: what separates a bare name from them.
        special: the marks are special tokens, so those must not be hidden.
    """

    begin: str
    end: str = ""
    separators: str = ""
    bare: bool = False
    array: bool = False
    arguments: str = ""
    special: bool = False


FORMATS: dict[str, CallFormat] = {
    "hermes": CallFormat("<tool_call>", "</tool_call>"),
    "mistral": CallFormat(
        "[TOOL_CALLS]", separators=",]", array=True, arguments="[ARGS]", special=True
    ),
    "llama3_json": CallFormat("<|python_tag|>", separators=";,", bare=True, special=True),
}


def parser_for_template(template: str) -> str | None:
    """The format that a chat template asks its model for; None if it takes no tools."""
    if "tools" not in template:
        return None
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_tag|>" in template or "<|eom_id|>" in template:
        return "llama3_json"
    return "hermes"


class ToolParser:
    """Cuts one answer into text and calls.

    Args:
        kind: one of `FORMATS`. names: tools that exist.
        parallel: False: what follows the first call is dropped, if it is a call.
    """

    def __init__(self, kind: str, names: Collection[str], *, parallel: bool = True) -> None:
        self._format = FORMATS[kind]
        self._names = names
        self._parallel = parallel
        self._out: list[Delta] = []
        self._held = ""
        self._raw: list[str] = []  # of a call that may still turn out to be text
        self._scanner: CallScanner | None = None
        self._accepted = False
        self._named = False  # the call's name stands before its arguments
        self._state: Callable[[], bool] = self._bare_start if self._format.bare else self._content
        self.num_calls = 0

    def push(self, text: str) -> list[Delta]:
        """Takes more text; returns what is certain."""
        self._held += text
        while self._held and self._state():
            pass
        return self._take()

    def finish(self) -> list[Delta]:
        """Returns what was held back; the answer is over."""
        rest = self._held
        if self._scanner is None or not self._accepted:
            rest = "".join(self._raw) + rest
        if self._state == self._between and not rest.strip(_SPACE + self._format.separators):
            rest = ""
        self._held = ""
        self._text(rest if self.num_calls == 0 or rest.strip() else "")
        return self._take()

    def _take(self) -> list[Delta]:
        out, self._out = self._out, []
        return out

    def _text(self, text: str) -> None:
        if not text:
            return
        if self._out and isinstance(self._out[-1], str):
            self._out[-1] += text
        else:
            self._out.append(text)

    # States. Each takes what it can from `_held`; False when it needs more text.

    def _content(self) -> bool:
        """Text; the beginning of a call, and blanks before it, are held back."""
        at = self._held.find(self._format.begin)
        if at >= 0:
            before = self._held[:at].rstrip(_SPACE)
            self._text(before)
            self._raw = [self._held[len(before) : at + len(self._format.begin)]]
            self._held = self._held[at + len(self._format.begin) :]
            self._state = self._behind_mark
            return True
        keep = _overlap(self._held, self._format.begin)
        certain = self._held[: len(self._held) - keep].rstrip(_SPACE)
        self._text(certain)
        self._held = self._held[len(certain) :]
        return False

    def _bare_start(self) -> bool:
        """The start of an answer that may be a call without a mark."""
        text = self._held.lstrip(_SPACE)
        if not text or (self._format.begin.startswith(text) and text != self._format.begin):
            return False
        if text.startswith("{"):
            self._raw = [self._held[: len(self._held) - len(text)]]
            self._held = text
            self._begin_call()
        else:
            self._state = self._content
        return True

    def _behind_mark(self) -> bool:
        """Behind `begin`: a call, a list of them, or a name with its arguments."""
        text = self._held.lstrip(_SPACE)
        if not text:
            return False
        skipped = self._held[: len(self._held) - len(text)]
        if text[0] == "{" or not self._format.array:
            self._raw.append(skipped)
            self._held = text
            self._begin_call()
        elif text[0] == "[":
            self._raw.append(skipped + "[")
            self._held = text[1:]
            if self._held.lstrip(_SPACE):
                self._held = self._held.lstrip(_SPACE)
                self._begin_call()
            else:
                self._state = self._between
        else:
            return self._bare_name(text)
        return True

    def _bare_name(self, text: str) -> bool:
        """A name, then its arguments as an object."""
        brace = text.find("{")
        if brace < 0:
            return False
        name = text[:brace].strip(_SPACE).removesuffix(self._format.arguments).strip(_SPACE)
        self._raw.append(text[:brace])
        self._held = text[brace:]
        self._begin_call()
        assert self._scanner is not None
        for char in f'{{"name": {json.dumps(name)}, "arguments":':
            self._scanner.feed(char)
        self._named = True
        return True

    def _begin_call(self) -> None:
        self._scanner = CallScanner()
        self._accepted = self._named = False
        self._state = self._call

    def _call(self) -> bool:
        """Within a call."""
        scanner = self._scanner
        assert scanner is not None
        for count, char in enumerate(self._held, 1):
            scanner.feed(char)
            if self._named and scanner.between:
                scanner.feed("}")  # a named call's object ends with its arguments
            if scanner.done or scanner.failed:
                self._consume(count)
                self._pass_on(scanner)
                self._end_call(scanner)
                return True
        self._consume(len(self._held))
        self._pass_on(scanner)
        return False

    def _consume(self, count: int) -> None:
        if not self._accepted:
            self._raw.append(self._held[:count])
        self._held = self._held[count:]

    def _pass_on(self, scanner: CallScanner) -> None:
        """New arguments of the call, after its name was found to be a tool's."""
        wanted = self._parallel or self.num_calls == 0 or self._accepted
        if scanner.name is None or not wanted:
            return
        if not self._accepted:
            if scanner.name not in self._names:
                scanner.failed = True
                return
            self._accepted = True
            self.num_calls += 1
            call_id = f"call_{uuid.uuid4().hex[:24]}"
            self._out.append(ToolDelta(self.num_calls - 1, "", scanner.name, call_id))
        arguments = scanner.take_arguments()
        if arguments:
            self._out.append(ToolDelta(self.num_calls - 1, arguments))

    def _end_call(self, scanner: CallScanner) -> None:
        dropped = scanner.done and scanner.name in self._names and not self._accepted
        if not self._accepted and not dropped:
            self._text("".join(self._raw))
            self._state = self._content
        else:
            self._state = self._between
        self._raw = []
        self._scanner = None

    def _between(self) -> bool:
        """Behind a call: its closing mark, then the next one or text."""
        text = self._held.lstrip(_SPACE + self._format.separators)
        if not text:
            return False
        if self._format.end and text.startswith(self._format.end):
            self._held = text[len(self._format.end) :]
            self._state = self._content
            return True
        if self._format.end.startswith(text):
            return False
        skipped, self._held = self._held[: len(self._held) - len(text)], text
        if text[0] == "{" and self._format.separators:
            self._raw.append(skipped)
            self._begin_call()
        else:
            self._state = self._content
        return True


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    for count in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-count:]):
            return count
    return 0
