"""Stop strings in a stream of text.

Surface: `StopFilter(stops)`, `push(text) -> (emit, stopped)`, `finish() -> str`.
"""

from __future__ import annotations

import re


class StopFilter:
    """Passes text on until a stop string appears, which itself is passed on only if `include`.

    The match that is complete first ends the text; of several complete at the same character the
    one that began first. So the result depends on the text alone, not on how it was cut into
    pieces, and a complete match never waits for further text. Only what may still become a stop
    string is held back. Each character costs amortised constant work for each stop string.
    """

    def __init__(self, stops: tuple[str, ...] = (), *, include: bool = False) -> None:
        self._include = include
        self._matchers = [_Matcher(stop) for stop in stops]
        self._first_char = re.compile("|".join([re.escape(stop[0]) for stop in stops]))
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Take new text; return what is safe to pass on and whether a stop string was found."""
        if self._stopped:
            return "", True
        if not self._matchers:
            return text, False
        begin = held_chars = len(self._held)
        if not begin:  # mostly so, and mostly no stop string begins here either
            first = self._first_char.search(text)
            if first is None:
                return text, False
            begin = first.start()
        text = self._held + text
        for index in range(begin, len(text)):
            held_chars = 0
            matched_chars = 0
            for matcher in self._matchers:
                length = matcher.step(text[index])
                held_chars = max(held_chars, length)
                if matcher.complete:
                    matched_chars = max(matched_chars, length)
            if matched_chars:
                self._held = ""
                self._stopped = True
                return text[: index + 1 - (0 if self._include else matched_chars)], True
        border = len(text) - held_chars
        self._held = text[border:]
        return text[:border], False

    def finish(self) -> str:
        """Return what was held back; the text is over and it became no stop string."""
        rest, self._held = self._held, ""
        return rest


class _Matcher:
    """Knuth-Morris-Pratt for one stop string, a character at a time."""

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._borders = _borders(stop)
        self._length = 0

    @property
    def complete(self) -> bool:
        """Whether the text so far ends in the whole stop string."""
        return self._length == len(self._stop)

    def step(self, char: str) -> int:
        """Take one character; return how much of the stop string the text now ends in."""
        length = self._length
        while length and self._stop[length] != char:
            length = self._borders[length]
        self._length = length + 1 if self._stop[length] == char else 0
        return self._length


def _borders(stop: str) -> list[int]:
    """For each length, the longest proper prefix of stop[:length] that is also its suffix."""
    borders = [0, 0]
    for index in range(1, len(stop)):
        length = borders[index]
        while length and stop[index] != stop[length]:
            length = borders[length]
        borders.append(length + 1 if stop[index] == stop[length] else 0)
    return borders
