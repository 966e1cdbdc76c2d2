"""The model that both sides serve: a Llama of 134 M random weights, with a tokenizer of words."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from string import ascii_lowercase

from rondo_bench.engines.shape import Shape

NAME = "llama-134m"
#: Tokens that are no text; the ids behind them are words.
SPECIAL = ("<unk>", "<s>", "</s>")
#: Ids that prompts are drawn from.
FIRST_ID = 16
#: Marks the beginning of a word, as in Llama's own tokenizer.
_SPACE = "▁"


def write_model(folder: Path, shape: Shape | None = None) -> Path:
    """Writes the model into `folder` unless it is there already; returns the folder."""
    shape = shape or Shape()
    done = folder / "tokenizer_config.json"
    if done.is_file():
        return folder
    shape.write(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(shape.vocabulary)))
    names = {"unk_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}
    done.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
    return folder


def tokenizer(vocabulary: int) -> dict[str, object]:
    """tokenizer.json of so many tokens: every id but the special ones is a word of its own.

    So each token has its text at once, and every token of a stream is an event with text, whatever
    random weights say.
    """
    words = (f"{_SPACE}{''.join(letters)}" for letters in product(ascii_lowercase, repeat=4))
    named = [*SPECIAL, *(next(words) for _ in range(vocabulary - len(SPECIAL)))]
    spaces = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "added_tokens": [_special(number, text) for number, text in enumerate(SPECIAL)],
        "pre_tokenizer": spaces,
        "decoder": spaces,
        "model": {
            "type": "WordLevel",
            "vocab": {text: number for number, text in enumerate(named)},
            "unk_token": SPECIAL[0],
        },
    }


def _special(number: int, text: str) -> dict[str, object]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": True, **off}
