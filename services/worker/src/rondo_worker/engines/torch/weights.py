"""Reads tensors of a Hugging Face folder from safetensors files, by memory map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rondo.errors import ModelError
from rondo_worker.engines.hf_config import ConfigFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class WeightFiles:
    """The tensors of a folder: one file, or shards with an index. Never a pickle.

    Args:
        folder: the model folder. device, dtype: what `take` converts to.

    Raises:
        ModelError: neither file is there, or a file cannot be read.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._folder = folder
        self._device = device
        self.dtype = dtype
        """The type of every tensor that is taken."""
        self._open: dict[str, Any] = {}
        self._file_of = self._locate()

    def take(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """A tensor of the expected shape, as the engine's own copy on its device.

        Raises:
            ModelError: it is missing, or has another shape or a type that is no float.
        """
        if name not in self._file_of:
            raise ModelError(str(self._folder), f"has no tensor {name}")
        file = self._file_of[name]
        try:
            tensor: torch.Tensor = self._handle(file).get_tensor(name)
        except SafetensorError as error:
            raise ModelError(str(self._folder / file), f"tensor {name}: {error}") from error
        if tuple(tensor.shape) != tuple(shape):
            raise ModelError(
                str(self._folder / file),
                f"tensor {name} has shape {[*tensor.shape]}, config.json asks for {[*shape]}",
            )
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ModelError(
                str(self._folder / file),
                f"tensor {name} is {tensor.dtype}; supported: float32, bfloat16, float16",
            )
        # A copy: a mapped file that somebody truncates would kill the process on access.
        return tensor.to(device=self._device, dtype=self.dtype, copy=True)

    def _locate(self) -> dict[str, str]:
        if (self._folder / SINGLE).is_file():
            return dict.fromkeys(self._handle(SINGLE).keys(), SINGLE)
        if not (self._folder / INDEX).is_file():
            raise ModelError(
                str(self._folder),
                f"has neither {SINGLE} nor {INDEX}; weights are read from safetensors only",
            )
        index = ConfigFile.read(self._folder / INDEX)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict):
            raise index.error("weight_map", "is missing or no object")
        return {str(name): str(file) for name, file in weight_map.items()}

    def _handle(self, file: str) -> Any:
        if file not in self._open:
            path = self._folder / file
            if not path.is_file():
                raise ModelError(str(self._folder), f"has no {file}, though {INDEX} names it")
            try:
                self._open[file] = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise ModelError(str(path), f"cannot be read as safetensors: {error}") from error
        return self._open[file]
