"""What the incremental detokenizer must know about a tokenizer; worked out once for each.

Surface: `vocabulary_of(tokenizer) -> Vocabulary`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer


class Vocabulary:
    """A tokenizer's tokens, seen from the decoding side.

    Attributes:
        byte_level: the decoder is GPT-2's: a token is a run of bytes and nothing else matters.
        lossy_tail: a text that ends in U+FFFD may change when further tokens follow.
        byte_ids: tokens such as ``<0xE4>`` that stand for bytes; empty without byte fallback.
        special_ids: tokens that `skip_special_tokens` leaves out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        types = _decoder_types(tokenizer)
        added = tokenizer.get_added_tokens_decoder()
        self.byte_level = types == ["ByteLevel"]
        self.lossy_tail = "ByteLevel" in types
        self.byte_ids = _byte_ids(tokenizer) if "ByteFallback" in types else frozenset()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self._tokenizer = tokenizer
        self._anchor = [] if self.byte_level else self._find_anchor()
        self._anchor_text = tokenizer.decode(self._anchor, skip_special_tokens=False)
        self._bytes: dict[int, bytes] = {}
        self._behind_anchor: dict[int, tuple[list[int], str]] = {}

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a token of a byte-level vocabulary; none for an unknown id."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._tokenizer.id_to_token(token_id)
            known = self._bytes[token_id] = b"" if token is None else _byte_level_bytes(token)
        return known

    def exact_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token adds amid a text, for every kind of vocabulary.

        They are what logprobs show; a token that is a part of a character has just its bytes.
        """
        if self.byte_level:
            return self.bytes_of(token_id)
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.byte_ids:
            return bytes([int(token[3:-1], 16)])
        _, text = self.behind_anchor(token_id)
        before = self._anchor_text
        return text[len(before) :].encode() if text.startswith(before) else text.encode()

    def behind_anchor(self, token_id: int) -> tuple[list[int], str]:
        """Return a token behind the anchor, and their text.

        The anchor is any token with visible text; behind it a token is never the first of a text.
        """
        known = self._behind_anchor.get(token_id)
        if known is None:
            ids = [*self._anchor, token_id]
            known = ids, self._tokenizer.decode(ids, skip_special_tokens=False)
            self._behind_anchor[token_id] = known
        return known

    def _find_anchor(self) -> list[int]:
        hidden = self.byte_ids | self.special_ids
        for index in range(self._tokenizer.get_vocab_size()):
            if index not in hidden and self._tokenizer.decode([index]).strip(" \ufffd"):
                return [index]
        return []


@lru_cache(maxsize=64)  # far more models than one gateway serves
def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return the vocabulary of a tokenizer, building it on first use."""
    return Vocabulary(tokenizer)


def _decoder_types(tokenizer: Tokenizer) -> list[str]:
    """Return the types in the tokenizer's chain of decoders, nested sequences flattened."""
    if tokenizer.decoder is None:
        return []
    found: list[str] = []
    pending: list[dict[str, Any]] = [json.loads(tokenizer.decoder.__getstate__())]
    while pending:
        decoder = pending.pop()
        if decoder["type"] == "Sequence":
            pending.extend(reversed(decoder["decoders"]))
        else:
            found.append(decoder["type"])
    return found


def _byte_ids(tokenizer: Tokenizer) -> frozenset[int]:
    names = [name for byte in range(256) for name in (f"<0x{byte:02X}>", f"<0x{byte:02x}>")]
    ids = (tokenizer.token_to_id(name) for name in names)
    return frozenset(index for index in ids if index is not None)


def _byte_level_alphabet() -> dict[str, int]:
    """Return which byte each character of a byte-level token stands for, as GPT-2 chose them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    """Return a token's bytes; one with characters outside the alphabet stands for itself."""
    try:
        return bytes([_ALPHABET[char] for char in token])
    except KeyError:
        return token.encode()
