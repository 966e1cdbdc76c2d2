"""Which token ids of a model folder are ordinary text."""

from __future__ import annotations

from rondo_worker.engines.hf_config import ConfigFile, ModelConfig


def ordinary_token_ids(config: ModelConfig) -> tuple[int, ...]:
    """Ids that an emulated answer is made of: no specials, and readable where that can be known.

    With a tokenizer.json these are the tokens of plain ASCII; without one, all ids that
    config.json does not name as special.
    """
    ids = _readable_ids(config) or range(config.vocab_size)
    specials = set(config.special_token_ids)
    return tuple(i for i in ids if i not in specials)


def _readable_ids(config: ModelConfig) -> list[int]:
    path = config.folder / "tokenizer.json"
    if not path.is_file():
        return []
    tokenizer = ConfigFile.read(path)
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        return []
    added = {entry["id"] for entry in tokenizer.get("added_tokens") or ()}
    return sorted(
        index
        for token, index in vocab.items()
        if index < config.vocab_size and index not in added and _is_plain(token)
    )


def _is_plain(token: str) -> bool:
    """Printable ASCII, with the markers that byte-level BPE and SentencePiece use for a space."""
    text = token.replace("\u0120", " ").replace("\u2581", " ")
    return text.isascii() and text.isprintable() and not text.startswith("<0x")
