"""What the gateway reads from a model's Hugging Face folder; the weights are not needed.

Surface: `ModelFiles.load(name, path)`, its fields, and `render_chat(messages) -> str`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rondo.errors import ModelError
from rondo.types import Sampling
from rondo_gateway.errors import ApiError
from rondo_gateway.text.chat_template import ChatTemplate

_SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The text side of one model.

    Attributes:
        name: what clients call the model.
        tokenizer: without truncation and padding, whatever its file says.
        special_tokens: ``bos_token``, ``eos_token``, ... as far as the model has them.
        chat_template: None for a model that only completes text.
        max_model_len: tokens of prompt and answer together.
        default_sampling: what holds where a request is silent.
        fingerprint: changes with the model's files (not its weights) and with Rondo's version.
    """

    name: str
    tokenizer: Tokenizer = field(repr=False)
    special_tokens: Mapping[str, str]
    chat_template: ChatTemplate | None
    max_model_len: int
    vocab_size: int
    default_sampling: Sampling
    fingerprint: str = ""

    @classmethod
    def load(cls, name: str, path: Path) -> ModelFiles:
        """Read the folder at `path`.

        Raises:
            ModelError: a file is missing or wrong; names the file and what it is needed for.
        """
        if not path.is_dir():
            raise ModelError(str(path), f"no folder here for model {name}")
        config = _read_json(path / "config.json", "the context length")
        tokenizer_config = _read_json(path / "tokenizer_config.json", "the special tokens")
        special_tokens = _special_tokens(tokenizer_config)
        source = _template_source(path, tokenizer_config)
        return cls(
            name=name,
            tokenizer=_read_tokenizer(path / "tokenizer.json"),
            special_tokens=special_tokens,
            chat_template=None if source is None else ChatTemplate(source, special_tokens),
            max_model_len=_positive_int(path / "config.json", config, _LENGTH_KEYS),
            vocab_size=_positive_int(path / "config.json", config, ("vocab_size",)),
            default_sampling=_default_sampling(path / "generation_config.json"),
            fingerprint=_fingerprint(path),
        )

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt text for a chat; ApiError (400) if the model has no chat template."""
        if self.chat_template is None:
            message = f"The model '{self.name}' has no chat template; use /v1/completions."
            raise ApiError(400, message, param="model", code="chat_not_supported")
        return self.chat_template.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, options=options
        )


def _fingerprint(path: Path) -> str:
    """Return system_fingerprint: a digest of the small files that decide on answers."""
    digest = hashlib.sha256(version("rondo-gateway").encode())
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        file = path / name
        digest.update(file.read_bytes() if file.exists() else b"-")
    return f"fp_{digest.hexdigest()[:10]}"


def _read_text(file: Path, purpose: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelError(str(file), f"needed for {purpose}: {exc}") from exc


def _read_json(file: Path, purpose: str) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(file, purpose))
    except json.JSONDecodeError as exc:
        raise ModelError(str(file), f"needed for {purpose}, but is no JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise ModelError(str(file), f"needed for {purpose}, but is no JSON object")
    return content


def _read_tokenizer(file: Path) -> Tokenizer:
    text = _read_text(file, "the tokenizer")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as exc:  # tokenizers raises no narrower class
        raise ModelError(str(file), f"needed for the tokenizer: {exc}") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_tokens(tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """Return the named tokens; older files hold an AddedToken as an object with `content`."""
    found = {}
    for key in _SPECIAL_TOKENS:
        value = tokenizer_config.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[key] = text
    return found


def _template_source(path: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """Return the chat template; its own file goes before the entry in tokenizer_config.json."""
    file = path / "chat_template.jinja"
    if file.exists():
        return _read_text(file, "the chat template")
    entry = tokenizer_config.get("chat_template")
    if isinstance(entry, list):
        named = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
        entry = named.get("default")
    if entry is not None and not isinstance(entry, str):
        problem = "chat_template must be a string or a list of {name, template}"
        raise ModelError(str(path / "tokenizer_config.json"), problem)
    return entry


def _positive_int(file: Path, config: dict[str, Any], keys: tuple[str, ...]) -> int:
    """Return the first of `keys`; models that also see or hear keep theirs in `text_config`."""
    nested = config.get("text_config")
    for section in (config, nested if isinstance(nested, dict) else {}):
        for key in keys:
            value = section.get(key)
            if type(value) is int and value > 0:
                return value
    raise ModelError(str(file), f"{' or '.join(keys)} must be a positive integer")


def _default_sampling(file: Path) -> Sampling:
    """Return what the model's authors chose: their sampling, greedy, or nothing (OpenAI's)."""
    if not file.exists():
        return Sampling()
    config = _read_json(file, "the default sampling")
    if config.get("do_sample") is False:
        return Sampling(temperature=0.0)
    if config.get("do_sample") is not True:
        return Sampling()
    return Sampling(
        temperature=_number(file, config, "temperature", 1.0),
        top_p=_number(file, config, "top_p", 1.0),
        top_k=max(0, int(_number(file, config, "top_k", 0))),  # some files write -1 for "off"
        min_p=_number(file, config, "min_p", 0.0),
    )


def _number(file: Path, config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(str(file), f"{key} must be a number, not {value!r}")
    return float(value)
