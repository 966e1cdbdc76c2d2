"""Token ids to text while they arrive.

Surface: `IncrementalDetokenizer(tokenizer)`, `push(ids) -> str`, `finish() -> str`.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer

from rondo_gateway.text.vocabulary import Vocabulary, vocabulary_of

#: Tokens decoded in one go. Bounds the work of a large push; small ones are the rule.
_SLICE_TOKENS = 64


class IncrementalDetokenizer:
    """Turns the ids of one answer into text, piece by piece, in linear time.

    All pieces together equal `tokenizer.decode(all_ids)`, byte for byte, and what was returned
    once never changes. So a piece never ends inside a character: U+FFFD appears only where the
    whole text has one. With byte-fallback tokens a run of them is held back until it ends,
    because one bad byte turns the whole run into U+FFFD.

    Holds for the decoders in use (ByteLevel, Metaspace, ByteFallback, Fuse, Strip, WordPiece,
    BPE, CTC, Replace before Fuse, or none), whose text only ever grows at its end.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        vocabulary = vocabulary_of(tokenizer)
        self._hidden = vocabulary.special_ids if skip_special_tokens else frozenset()
        self._stream: _Stream = (
            _ByteStream(vocabulary)
            if vocabulary.byte_level
            else _WindowStream(tokenizer, vocabulary)
        )

    def push(self, ids: Sequence[int]) -> str:
        """Take the next ids; return the text that is certain by now."""
        hidden = self._hidden
        if len(ids) == 1:  # nearly always
            return "" if ids[0] in hidden else self._stream.push(ids)
        return self._stream.push([index for index in ids if index not in hidden])

    def finish(self) -> str:
        """Return what was held back; no ids follow."""
        return self._stream.finish()


class _Stream(Protocol):
    def push(self, ids: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


class _ByteStream:
    """For byte-level vocabularies: join the tokens' bytes and decode them as they come."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._bytes_of = vocabulary.bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = True  # the bytes so far end with a character

    def push(self, ids: Sequence[int]) -> str:
        data = self._bytes_of(ids[0]) if len(ids) == 1 else b"".join(map(self._bytes_of, ids))
        if self._whole and data.isascii():
            return data.decode("ascii")
        text = self._decoder.decode(data)
        self._whole = not self._decoder.getstate()[0]
        return text

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowStream:
    """For all other decoders: decode new tokens behind a little context, return what it adds.

    The context is an anchor, which takes the place of everything before and so keeps the decoder
    from treating the next token as the first of the text, and the last token passed on, which
    some decoders end differently when others follow. Until the first visible text the context is
    everything from the start, so that the start is treated as such.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._context: list[int] = []
        self._context_text = ""
        self._held: list[int] = []
        self._started = False

    def push(self, ids: Sequence[int]) -> str:
        # Models with a padded vocabulary can emit ids that the tokenizer lacks; decoding skips
        # them, so they must not count as the end of a run of bytes.
        ids = [index for index in ids if self._tokenizer.id_to_token(index) is not None]
        slices = range(0, len(ids), _SLICE_TOKENS)
        return "".join([self._take(ids[start : start + _SLICE_TOKENS]) for start in slices])

    def finish(self) -> str:
        text = self._decode(self._context + self._held)[len(self._context_text) :]
        self._held = []
        return text

    def _take(self, ids: list[int]) -> str:
        """Add ids to those held and pass on as many as are certain."""
        count = len(ids)
        while count and ids[count - 1] in self._vocabulary.byte_ids:
            count -= 1
        if not count:  # the run of bytes goes on
            self._held += ids
            return ""
        ready = self._held + ids[:count]
        window = self._context + ready
        text = self._decode(window)
        if self._vocabulary.lossy_tail and text.endswith("\ufffd"):
            self._held += ids
            return ""
        self._held = ids[count:]
        new = text[len(self._context_text) :]
        self._move_context(window, text)
        return new

    def _move_context(self, window: list[int], text: str) -> None:
        self._started = self._started or bool(text)
        if self._started:
            self._context, self._context_text = self._vocabulary.behind_anchor(window[-1])
        else:
            self._context, self._context_text = window, text

    def _decode(self, ids: list[int]) -> str:
        # Special tokens are left out before they get here, where that is wanted.
        return self._tokenizer.decode(ids, skip_special_tokens=False)
