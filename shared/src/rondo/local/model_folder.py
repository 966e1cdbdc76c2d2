"""The model a local cluster serves: the one that ships, or a folder that is checked first."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

from rondo.errors import ModelError

SHIPPED = "rondo-tiny"
#: What models are called on Hugging Face's hub: owner/name.
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")


def find_model(path: str | None, *, weights: bool) -> Path:
    """The folder to serve; `weights` says whether the engine needs them.

    Args:
        path: a folder, or the hub's name of a model that is in the cache of Hugging Face's tools.

    Raises:
        ModelError: no folder, or files are missing; names them all.
    """
    if path is None or path == SHIPPED:
        folder = Path(str(resources.files("rondo") / "models" / SHIPPED))
    else:
        folder = _folder(path)
    missing = [
        name
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        if not (folder / name).is_file()
    ]
    if weights and not any(folder.glob("*.safetensors")):
        missing.append("model.safetensors (or shards of it)")
    if missing:
        raise ModelError(
            "--model", f"{folder} is no Hugging Face model folder; missing: {', '.join(missing)}"
        )
    return folder


def model_name(path: str | None) -> str:
    """What clients call the model of `find_model` unless told otherwise."""
    if path is None:
        return SHIPPED
    return path if _of_the_hub(path) else Path(path).expanduser().resolve().name


def _folder(path: str) -> Path:
    if not _of_the_hub(path):
        folder = Path(path).expanduser().resolve()
        if not folder.is_dir():
            raise ModelError("--model", f"{folder} is no folder")
        return folder
    stored = _hub_cache() / f"models--{path.replace('/', '--')}"
    try:
        return stored / "snapshots" / (stored / "refs" / "main").read_text().strip()
    except OSError:
        problem = f"{path} is no folder, and not in the cache {_hub_cache()}"
        raise ModelError("--model", f"{problem}; `hf download {path}` puts it there") from None


def _of_the_hub(path: str) -> bool:
    """Whether it is a name, not a folder: a folder of that name goes first."""
    return bool(_HUB_NAME.fullmatch(path)) and not Path(path).exists()


def _hub_cache() -> Path:
    """Where Hugging Face's tools, and vLLM with them, keep what they downloaded."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
