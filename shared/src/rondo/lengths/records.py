"""The log that a predictor is trained on: prompts and how long their answers were, JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from rondo.errors import ConfigError


class LengthRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One answer. `prompt` are its token ids: whoever has the tokenizer can read them.

    `output` counts the answer's tokens; with `finish` "length" it would have been longer, had
    `max_tokens` allowed it.
    """

    model: str
    prompt: list[int]
    max_tokens: int
    output: int
    finish: Literal["stop", "length"]


_decoder = msgspec.json.Decoder(LengthRecord)


def read_log(path: Path) -> list[LengthRecord]:
    """The records of a log; an unfinished last line, of a program that was killed, is left out.

    Raises:
        ConfigError: there is no such file, or a line is no record; names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), str(error)) from error
    found = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            record = _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}, line {number}", str(error)) from error
        if not record.prompt or min(record.prompt) < 0 or record.output < 1:
            raise ConfigError(f"{path}, line {number}", "an empty prompt or answer, or an id < 0")
        found.append(record)
    return found


def of_one_model(records: list[LengthRecord], model: str | None) -> list[LengthRecord]:
    """The records of `model`; without a name all must be of one.

    Raises:
        ConfigError: they are of several models, or none is of this one.
    """
    models = sorted({record.model for record in records})
    if model is None and len(models) > 1:
        raise ConfigError("--model", f"choose one: the log has {', '.join(models)}")
    kept = [record for record in records if model is None or record.model == model]
    if not kept:
        raise ConfigError("--model", f"the log has no answer of {model or 'any model'}")
    return kept
