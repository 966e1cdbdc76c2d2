"""Tasks on numbers and words: each draws a question and its only right answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from rondo_tiny.words import UNICODE_RANGES, WORDS


@dataclass(frozen=True)
class Draft:
    """A question in plain wording, before greetings, case and punctuation vary.

    ``content`` names what is asked whatever the wording (``"add 12 7"``); it is empty for
    questions from a closed set, where only the wording can be new. ``literal`` marks text whose
    letter case must stay as it is; ``common`` marks what anyone would ask first.
    """

    text: str
    answer: str
    content: str = ""
    literal: bool = False
    common: bool = False


def count(rng: random.Random) -> Draft:
    """Count up or down, sometimes in steps."""
    if rng.random() < 0.15:
        return _count_steps(rng)
    length = rng.randint(2, rng.choices((14, 40, 100), (60, 34, 6))[0])
    low = rng.choice((0, 1, 1, rng.randint(0, 100 - length + 1)))
    low = min(low, 101 - length)
    high = low + length - 1
    if rng.random() < 0.3:
        wording = rng.choice(
            (
                "Count down from {h} to {l}.",
                "Count backwards from {h} to {l}.",
                "Count from {h} down to {l}.",
                "Count from {h} to {l}.",
                "Can you count down from {h} to {l}?",
            )
        )
        values = list(range(high, low - 1, -1))
    else:
        wording = rng.choice(
            (
                "Count from {l} to {h}.",
                "Count up from {l} to {h}.",
                "List the numbers from {l} to {h}.",
                "Can you count from {l} to {h}?",
                "Write the numbers from {l} to {h}.",
                "Count to {h}." if low == 1 else "Count from {l} to {h}.",
            )
        )
        values = list(range(low, high + 1))
    text = wording.format(l=low, h=high)
    content = f"count {values[0]} {values[-1]} {values[1] - values[0]}"
    return Draft(text, _join(values), content, common=values[0] in (0, 1) and high <= 20)


def _count_steps(rng: random.Random) -> Draft:
    step = rng.choice((2, 3, 5, 10))
    low = rng.choice((0, step, rng.randint(0, 20)))
    values = [low + step * i for i in range(rng.randint(3, 100 // step - 2))]
    values = [value for value in values if value <= 100]
    wording = rng.choice(
        (
            "Count from {l} to {h} in steps of {s}.",
            "Count by {s} from {l} to {h}.",
            "Count from {l} to {h} by {s}.",
        )
    )
    text = wording.format(l=low, h=values[-1], s=step)
    return Draft(text, _join(values), f"count {low} {values[-1]} {step}")


def add(rng: random.Random) -> Draft:
    """Add two numbers of one or two digits."""
    left, right = _operand(rng), _operand(rng)
    wording = rng.choice(
        (
            "What is {a} plus {b}?",
            "What is {a} + {b}?",
            "{a} + {b} =",
            "{a}+{b}=?",
            "Add {a} and {b}.",
            "Calculate {a} + {b}.",
            "How much is {a} plus {b}?",
            "What is the sum of {a} and {b}?",
        )
    )
    text = wording.format(a=left, b=right)
    return Draft(text, f"{left} + {right} = {left + right}", f"add {left} {right}")


def subtract(rng: random.Random) -> Draft:
    """Subtract the smaller of two numbers from the larger."""
    right, left = sorted((_operand(rng), _operand(rng)))
    wording = rng.choice(
        (
            "What is {a} minus {b}?",
            "What is {a} - {b}?",
            "{a} - {b} =",
            "{a}-{b}=?",
            "Subtract {b} from {a}.",
            "Calculate {a} - {b}.",
            "How much is {a} minus {b}?",
            "Take {b} away from {a}.",
        )
    )
    text = wording.format(a=left, b=right)
    return Draft(text, f"{left} - {right} = {left - right}", f"subtract {left} {right}")


def multiply(rng: random.Random) -> Draft:
    """Recite the multiplication table from 0 to 10."""
    left, right = rng.randint(0, 10), rng.randint(0, 10)
    wording = rng.choice(
        (
            "What is {a} times {b}?",
            "What is {a} x {b}?",
            "{a} x {b} =",
            "{a} * {b} =",
            "{a}*{b}=?",
            "Multiply {a} by {b}.",
            "Calculate {a} x {b}.",
            "How much is {a} times {b}?",
            "What is the product of {a} and {b}?",
        )
    )
    return Draft(wording.format(a=left, b=right), f"{left} x {right} = {left * right}")


def _operand(rng: random.Random) -> int:
    return rng.randint(0, 12) if rng.random() < 0.25 else rng.randint(0, 99)


def _join(values: list[int]) -> str:
    return ", ".join(str(value) for value in values)


def _word(rng: random.Random, longest: int) -> str:
    if rng.random() < 0.55:
        syllables = rng.randint(1, 3)
        text: str = "".join(
            rng.choice("bcdfghjklmnpqrstvwxyz") + rng.choice("aeiou") for _ in range(syllables)
        )
        word: str = (text + rng.choice(("", "", *"nrstldmkx")))[:longest]
        word = word if len(word) > 2 else word + "t"
    else:
        word = rng.choice([word for word in WORDS if len(word) <= longest])
    return word.capitalize() if rng.random() < 0.1 else word


def spell(rng: random.Random) -> Draft:
    """Spell a word letter by letter."""
    word = _word(rng, 9)
    wording = rng.choice(
        (
            "Spell the word {w}.",
            "Spell {w}.",
            "How do you spell {w}?",
            'Spell the word "{w}".',
            "Can you spell {w}?",
            "Spell out the word {w}.",
        )
    )
    return Draft(wording.format(w=word), "-".join(word), f"spell {word.lower()}", literal=True)


def reverse(rng: random.Random) -> Draft:
    """Write a short word backwards."""
    word = _word(rng, 7)
    wording = rng.choice(
        (
            "Reverse the word {w}.",
            "Reverse {w}.",
            "Write {w} backwards.",
            'Reverse the word "{w}".',
            "Spell {w} backwards.",
            "What is {w} in reverse?",
        )
    )
    return Draft(wording.format(w=word), word[::-1], f"reverse {word.lower()}", literal=True)


def sort(rng: random.Random) -> Draft:
    """Sort three to five different numbers."""
    top = rng.choice((9, 20, 99, 99))
    values = rng.sample(range(top + 1), rng.randint(3, 5))
    wording = rng.choice(
        (
            "Sort {v}.",
            "Sort these numbers: {v}.",
            "Sort the numbers {v}.",
            "Put these numbers in order: {v}.",
            "Sort from smallest to largest: {v}.",
            "Order {v}.",
        )
    )
    listed = " ".join(map(str, values)) if rng.random() < 0.15 else _join(values)
    return Draft(wording.format(v=listed), _join(sorted(values)), f"sort {sorted(values)}")


def repeat(rng: random.Random) -> Draft:
    """Repeat a few words, sometimes in another script."""
    parts = [_foreign(rng) if rng.random() < 0.3 else _word(rng, 9)]
    while len(parts) < 5 and rng.random() < 0.6:
        parts.append(_foreign(rng) if rng.random() < 0.2 else _word(rng, 9))
    phrase = " ".join(parts)
    wording = rng.choice(("Repeat after me: {p}", "Repeat: {p}", 'Repeat "{p}"', "Echo: {p}"))
    return Draft(wording.format(p=phrase), phrase, f"repeat {phrase.lower()}", literal=True)


def _foreign(rng: random.Random) -> str:
    first, last = rng.choice(UNICODE_RANGES)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 4)))


Maker = Callable[[random.Random], Draft]
