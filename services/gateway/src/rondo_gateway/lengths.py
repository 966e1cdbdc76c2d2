"""How long answers will be: by a trained predictor, else by the lengths of those that ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rondo.errors import ConfigError
from rondo.lengths.empirical import EmpiricalLengths
from rondo.lengths.recorder import LengthRecorder
from rondo.lengths.records import LengthRecord
from rondo.service import logs
from rondo.types import FinishReason
from rondo_gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from rondo.lengths.model import LengthModel

log = logging.getLogger("rondo.gateway")

#: What is assumed before anything was learned.
FIRST_GUESS = 256.0
#: Predictions are this much above the mean: a KV reservation that is short costs more.
MARGIN = 1.2
#: How long a stopping gateway waits for the disk.
CLOSE_TIMEOUT_S = 2.0

_LENGTHS = "RONDO_LENGTHS"
_RECORD = "RONDO_RECORD_LENGTHS"


class OutputLengths:
    """What schedulers are told about answers, and what answers tell of the next ones.

    Args:
        trained: predictors by the names of their models.
        recorder: gets what a predictor can be trained on.
    """

    def __init__(
        self,
        trained: Mapping[str, LengthModel] | None = None,
        recorder: LengthRecorder | None = None,
    ) -> None:
        self._trained = dict(trained or {})
        self._recorder = recorder
        self._seen: dict[str, EmpiricalLengths] = {}

    @classmethod
    def of(cls, settings: GatewaySettings) -> OutputLengths:
        """With the predictors and the log that the settings ask for.

        Raises:
            ConfigError: one of these files is no good.
        """
        trained = trained_models(settings.lengths, settings.model_folders())
        if not settings.record_lengths:
            return cls(trained)
        path, max_bytes = Path(settings.record_lengths), settings.record_lengths_max_bytes
        return cls(trained, LengthRecorder(path, max_bytes, _RECORD))

    def predict(
        self, model: str, prompt: Sequence[int], max_tokens: int, *, exact: bool, done: int = 0
    ) -> int:
        """Tokens that are still to come of an answer, with a margin; at least 1.

        Args:
            prompt: its token ids.
            max_tokens: of the whole answer; it is that long if `exact`.
            done: tokens of the answer that are there already.
        """
        left = max_tokens - done
        if not exact and left > 1:
            left = min(left, round(self._expected(model, prompt, max_tokens, done) * MARGIN))
        return max(1, left)

    def observe(
        self, model: str, prompt: list[int], max_tokens: int, num_tokens: int, finish: FinishReason
    ) -> None:
        """An answer ended, by itself or at its limit."""
        if finish is FinishReason.STOP:
            self._seen.setdefault(model, EmpiricalLengths()).observe(num_tokens)
        if self._recorder is not None and num_tokens:
            record = LengthRecord(
                model=model,
                prompt=prompt,
                max_tokens=max_tokens,
                output=num_tokens,
                finish="stop" if finish is FinishReason.STOP else "length",
            )
            self._recorder.append(record)

    def close(self) -> None:
        """Has what was recorded written; waits a little for a slow disk."""
        recorder = self._recorder
        if recorder is not None and not recorder.close(CLOSE_TIMEOUT_S):
            logs.warning(log, "lengths_not_written", path=str(recorder.path))

    def _expected(self, model: str, prompt: Sequence[int], max_tokens: int, done: int) -> float:
        trained = self._trained.get(model)
        if trained is not None:
            spread = trained.predict(prompt, max_tokens)
            return spread.expected_after(done) if done else spread.expected
        seen = self._seen.get(model)
        return ((seen and seen.mean) or FIRST_GUESS) - done


def trained_models(setting: str, folders: Mapping[str, Path]) -> dict[str, LengthModel]:
    """The predictors by model: those in the models' folders, or what RONDO_LENGTHS says.

    Raises:
        ConfigError: the setting names no model of ours, or a file is no predictor.
    """
    files = _files(setting, folders)
    if not files:
        return {}
    try:
        from rondo.lengths import model_file  # numpy takes 0.1 s and 20 MiB: only where it is used
    except ImportError as error:
        if setting:
            raise ConfigError(_LENGTHS, f"needs {error.name}: rondo-gateway[lengths]") from error
        logs.warning(log, "length_predictor_unused", missing=error.name)
        return {}
    found = {name: model_file.load(path, _LENGTHS) for name, path in files.items()}
    for name, path in files.items():
        logs.info(log, "length_predictor", model=name, path=str(path))
    return found


def _files(setting: str, folders: Mapping[str, Path]) -> dict[str, Path]:
    if setting == "off":
        return {}
    if not setting:
        beside = {
            name: folder / "rondo" / "lengths.safetensors" for name, folder in folders.items()
        }
        return {name: path for name, path in beside.items() if path.exists()}
    files = {}
    for entry in filter(None, (part.strip() for part in setting.split(","))):
        name, separator, path = entry.partition("=")
        if not separator:
            if len(folders) > 1:
                raise ConfigError(_LENGTHS, "several models are served: write name=file")
            [name], path = folders, entry
        if name not in folders:
            raise ConfigError(_LENGTHS, f"{name!r} is no model of RONDO_MODELS")
        if name in files:
            raise ConfigError(_LENGTHS, f"model {name!r} is there twice")
        files[name] = Path(path)
    return files
