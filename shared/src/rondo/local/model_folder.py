"""The model a local cluster serves: the one that ships, or a folder that is checked first."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from rondo.errors import ModelError

SHIPPED = "rondo-tiny"


def find_model(path: str | None, *, weights: bool) -> Path:
    """The folder to serve; `weights` says whether the engine needs them.

    Raises:
        ModelError: no folder, or files are missing; names them all.
    """
    if path is None or path == SHIPPED:
        folder = Path(str(resources.files("rondo") / "models" / SHIPPED))
    else:
        folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise ModelError("--model", f"{folder} is no folder")
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
