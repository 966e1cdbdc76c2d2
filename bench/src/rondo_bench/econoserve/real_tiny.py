"""Questions that rondo-tiny can answer, as its tokens, and how long its predictor says they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rondo.lengths import model_file

#: Of the questions; the others have short answers. As in real traffic the long ones are few, and
#: have most of the tokens.
COUNT_SHARE = 0.25
#: Numbers that are counted at most. They begin with 1, for the predictor knows no arithmetic.
LONGEST_COUNT = 40
#: More than any right answer has.
LIMIT_TOKENS = 192


def questions(seed: int, count: int) -> list[str]:
    """Sums, differences and counts, drawn by the seed."""
    dice = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        left, right = (int(value) for value in dice.integers(10, 100, 2))
        if dice.random() < COUNT_SHARE:
            drawn.append(f"Count from 1 to {int(dice.integers(5, LONGEST_COUNT + 1))}.")
        elif dice.random() < 0.5:
            drawn.append(f"What is {left} + {right}?")
        else:
            drawn.append(f"What is {max(left, right)} - {min(left, right)}?")
    return drawn


class TinyTokens:
    """Prompts as token ids, by the model's chat template.

    rondo-tiny's tokens are bytes; what is asked here is printable ASCII, whose names in the
    vocabulary are the characters themselves, but for the blank.
    """

    def __init__(self, folder: Path) -> None:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        self._ids: dict[str, int] = tokenizer["model"]["vocab"]

    def prompt(self, question: str) -> tuple[int, ...]:
        """A chat of one message, up to where the answer begins."""
        text = (self._ids["Ġ" if letter == " " else letter] for letter in question)
        before = (self._ids["<|start|>"], self._ids["<|user|>"])
        return (*before, *text, self._ids["<|end|>"], self._ids["<|assistant|>"])


def predictions(folder: Path, prompts: list[tuple[int, ...]]) -> list[int]:
    """Expected tokens of the answers, by the predictor that ships with the model."""
    model = model_file.load(folder / model_file.FILE_NAME, "rondo-tiny's predictor")
    return [max(1, round(model.predict(prompt, LIMIT_TOKENS).expected)) for prompt in prompts]
