"""The file of a trained predictor: safetensors, read by numpy, checked before anything is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rondo.errors import ConfigError
from rondo.lengths import features
from rondo.lengths.classes import LengthClasses
from rondo.lengths.model import Calibration, LengthModel, LengthNet

#: Where a model's predictor is looked for, in its folder. Not beside the weights: vLLM takes every
#: safetensors file there for weights.
FILE_NAME = Path("rondo") / "lengths.safetensors"
FORMAT = "rondo-lengths"
VERSION = 1
#: A larger file is none of ours; it is not read at all.
MAX_BYTES = 64 << 20
MAX_ORDERS = 8


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says beside its tensors, as JSON under the one key FORMAT: safetensors writes
    keys in any order, and the same predictor shall be the same file. `notes` are for people.
    """

    version: int
    orders: Annotated[int, Meta(ge=1, le=MAX_ORDERS)]
    recent: Annotated[int, Meta(ge=1)]
    notes: dict[str, str] = {}


_NET = ("embedding", "hidden", "hidden_bias", "output", "output_bias", "scales")
_NAMES = (*_NET, "edges", "means", "levels", "temperature")


def save(model: LengthModel, path: Path, notes: dict[str, str]) -> None:
    """Writes a predictor, at once or not at all; `notes` go along with it, for people."""
    tensors = {name: np.ascontiguousarray(getattr(model.net, name)) for name in _NET}
    tensors["embedding"] = tensors["embedding"].astype(np.float16)  # most of the file
    tensors["edges"] = np.array(model.classes.edges, dtype=np.int64)
    tensors["means"] = np.array(model.classes.means, dtype=np.float64)
    tensors["levels"] = model.calibration.levels
    tensors["temperature"] = np.array([model.calibration.temperature], dtype=np.float64)
    facts = Facts(version=VERSION, orders=model.orders, recent=model.recent, notes=notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    save_file(tensors, draft, metadata={FORMAT: msgspec.json.encode(facts).decode()})
    draft.chmod(0o644)  # safetensors' own is 0600; it holds no prompts, and other users serve it
    draft.replace(path)


def load(path: Path, setting: str) -> LengthModel:
    """Reads a predictor.

    Raises:
        ConfigError: of `setting`: there is no such file, or it is damaged or of another format.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_BYTES:
            raise ConfigError(setting, f"{path} has {size_bytes} bytes: no length predictor")
        with safe_open(path, framework="np") as file:
            facts = _facts(file.metadata() or {})
            if facts is None:
                problem = f"{path} is no length predictor of version {VERSION}"
                raise ConfigError(setting, f"{problem}: train it with rondo-bench lengths")
            missing = [name for name in _NAMES if name not in file.keys()]  # noqa: SIM118
            if missing:
                raise ConfigError(setting, f"{path} lacks {', '.join(missing)}")
            tensors = {name: file.get_tensor(name) for name in _NAMES}
    except (OSError, SafetensorError, TypeError) as error:
        raise ConfigError(setting, f"{path} cannot be read: {error}") from error
    try:
        return _model(tensors, facts)
    except (TypeError, ValueError) as error:
        raise ConfigError(setting, f"{path} is damaged: {error}") from error


def _facts(metadata: dict[str, str]) -> Facts | None:
    try:
        facts = msgspec.json.decode(metadata.get(FORMAT, ""), type=Facts)
    except msgspec.DecodeError:
        return None
    return facts if facts.version == VERSION else None


def _model(tensors: dict[str, Any], facts: Facts) -> LengthModel:
    """Checks what safetensors does not: shapes that fit, numbers that can be computed with.

    Raises:
        ValueError: what is wrong.
    """
    _check_shapes(tensors)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} is not finite")
    edges, levels = tensors["edges"], tensors["levels"]
    if edges[0] < 0 or (np.diff(edges) <= 0).any():
        raise ValueError("edges do not rise")
    if (np.diff(levels) < 0).any() or (levels[0], levels[-1]) != (0.0, 1.0):
        raise ValueError("levels do not rise from 0 to 1")
    if tensors["temperature"][0] <= 0 or (tensors["scales"][1] <= 0).any():
        raise ValueError("a scale is not above 0")
    return LengthModel(
        net=LengthNet(**{name: tensors[name].astype(np.float32) for name in _NET}),
        classes=LengthClasses(tuple(edges.tolist()), tuple(tensors["means"].tolist())),
        calibration=Calibration(
            temperature=float(tensors["temperature"][0]), levels=levels.astype(np.float64)
        ),
        orders=facts.orders,
        recent=facts.recent,
    )


def _check_shapes(tensors: dict[str, Any]) -> None:
    means, levels = tensors["means"], tensors["levels"]
    num_bags, num_buckets, width = _shape(tensors["embedding"], 3)
    num_hidden, _ = _shape(tensors["hidden"], 2)
    expected = {
        "embedding": (features.NUM_BAGS, num_buckets, width),
        "hidden": (num_hidden, num_bags * width + features.NUM_NUMBERS),
        "hidden_bias": (num_hidden,),
        "output": (len(means), num_hidden),
        "output_bias": (len(means),),
        "scales": (4, features.NUM_NUMBERS),
        "edges": (len(means) + 1,),
        "means": (len(means),),
        "levels": (len(levels),),
        "temperature": (1,),
    }
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has shape {tensors[name].shape}, not {shape}")
    if num_buckets < 1 or len(means) < 1 or len(levels) < 2:
        raise ValueError("an empty tensor")


def _shape(tensor: Any, dimensions: int) -> tuple[int, ...]:
    if tensor.ndim != dimensions:
        raise ValueError(f"a tensor has shape {tensor.shape}, not {dimensions} dimensions")
    return tuple(int(size) for size in tensor.shape)
