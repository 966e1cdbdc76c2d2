"""IncrementalDetokenizer against a full decode, for every kind of decoder in use."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from rondo_gateway.text.detokenizer import IncrementalDetokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It doesn't matter, does it?",
    "Café, naïve, Zürich, 東京は大きい。 你好，世界！ 안녕하세요 مرحبا שלום नमस्ते",
    "def f(x):\n    return x  # two  spaces\n\n\t👍🏽 👨‍👩‍👧 🇨🇭 e\u0301",
]
SPECIALS = ["<s>", "</s>", "<|end|>"]
# Plain added tokens: outside and inside the byte-level alphabet, and one with spaces at its ends.
ADDED = ["<tool>", "ñ", "€¿", " x "]


def finish(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    return tokenizer


@cache
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return finish(tokenizer)


def fallback_vocabulary() -> dict[str, int]:
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["<unk>", "▁", "▁▁", "▁the", "he", "▁a", "▁doesn", "'t", "."]
    pieces += [char for char in sorted(set("".join(CORPUS))) if char.isascii() and char != " "]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


@cache
def llama_like() -> Tokenizer:
    model = models.BPE(fallback_vocabulary(), [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return finish(tokenizer)


@cache
def wide_strip() -> Tokenizer:
    """Strips more than one token's worth of the start, and only of the start."""
    tokenizer = Tokenizer.from_str(llama_like().to_str())
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 4, 0)]
    )
    return tokenizer


@cache
def unigram_metaspace() -> Tokenizer:
    pieces = [(piece, -float(index % 17) - 1) for piece, index in fallback_vocabulary().items()]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=256, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return finish(tokenizer)


@cache
def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return finish(tokenizer)


@cache
def word_suffix() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        end_of_word_suffix="</w>",
        special_tokens=["<unk>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return finish(tokenizer)


@cache
def byte_level_in_a_sequence() -> Tokenizer:
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return tokenizer


@cache
def without_decoder() -> Tokenizer:
    tokenizer = Tokenizer.from_str(word_piece().to_str())
    tokenizer.decoder = None
    return tokenizer


KINDS: list[Callable[[], Tokenizer]] = [
    byte_level,
    llama_like,
    wide_strip,
    unigram_metaspace,
    word_piece,
    word_suffix,
    byte_level_in_a_sequence,
    without_decoder,
]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)

# Anything that is text, with a bias to what is several bytes or several characters long.
TEXT = st.lists(
    st.one_of(
        st.sampled_from([*CORPUS, *SPECIALS, *ADDED, " ", "  ", "\n", ".", " .", "n't", "▁"]),
        st.sampled_from(
            ["👨‍👩‍👧‍👦", "👍🏽", "🇨🇭", "e\u0301", "\u200d", "漢字", "\ufffd", "한", "नि"]
        ),
        st.text(max_size=8),
    ),
    max_size=12,
).map("".join)
BORDERS = st.lists(st.integers(0, 2_000), max_size=30)


def pieces_of(
    tokenizer: Tokenizer, ids: list[int], borders: list[int], skip: bool = True
) -> list[str]:
    stream = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    edges = [0, *sorted(border % (len(ids) + 1) for border in borders), len(ids)]
    pieces = [stream.push(ids[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    return [*pieces, stream.finish()]


@EVERY_KIND
@settings(deadline=None)
@given(text=TEXT, borders=BORDERS, skip=st.booleans())
def test_pieces_of_a_text_make_up_the_full_decode(
    kind: Callable[[], Tokenizer], text: str, borders: list[int], skip: bool
) -> None:
    tokenizer = kind()
    ids = tokenizer.encode(text).ids
    full = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(pieces_of(tokenizer, ids, borders, skip)) == full


@EVERY_KIND
@pytest.mark.parametrize("skip", [True, False])
def test_every_split_gives_what_transformers_decodes(
    kind: Callable[[], Tokenizer], skip: bool
) -> None:
    """Emoji of several parts, combining characters and special tokens, cut everywhere."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = kind()
    reference = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    for text in (*CORPUS, "a<|end|>b👨‍👩‍👧e\u0301<tool>नि", " 🇨🇭\n\n  x . n't"):
        ids = tokenizer.encode(text).ids
        full = reference.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        for border in range(len(ids) + 1):
            assert "".join(pieces_of(tokenizer, ids, [border], skip)) == full
        assert "".join(pieces_of(tokenizer, ids, list(range(len(ids))), skip)) == full


@EVERY_KIND
@settings(max_examples=300, deadline=None)
@given(data=st.data(), borders=BORDERS, skip=st.booleans())
def test_pieces_of_any_ids_make_up_the_full_decode(
    kind: Callable[[], Tokenizer], data: st.DataObject, borders: list[int], skip: bool
) -> None:
    """Models do emit invalid bytes, unknown ids, and special tokens anywhere."""
    tokenizer = kind()
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() + 2), max_size=80))
    full = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(pieces_of(tokenizer, ids, borders, skip)) == full


@pytest.mark.parametrize("kind", [llama_like, unigram_metaspace], ids=lambda kind: kind.__name__)
@settings(deadline=None)
@given(data=st.data(), borders=BORDERS)
def test_broken_runs_of_byte_tokens(
    kind: Callable[[], Tokenizer], data: st.DataObject, borders: list[int]
) -> None:
    tokenizer = kind()
    valid = [list("你👍é€".encode()[a:b]) for a, b in ((0, 3), (3, 7), (7, 9), (9, 12))]
    part = st.one_of(
        st.sampled_from(valid),
        st.lists(st.integers(128, 255), min_size=1, max_size=2),
        st.lists(st.integers(256, tokenizer.get_vocab_size() - 1), min_size=1, max_size=2),
    )
    parts = data.draw(st.lists(part, max_size=12))
    ids = [index for part in parts for index in part]
    assert "".join(pieces_of(tokenizer, ids, borders)) == tokenizer.decode(ids)


@EVERY_KIND
@settings(deadline=None)
@given(text=TEXT.filter(lambda text: "\ufffd" not in text))
def test_no_half_character_comes_out(kind: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = kind()
    ids = tokenizer.encode(text).ids
    full = tokenizer.decode(ids)
    emitted = ""
    for piece in pieces_of(tokenizer, ids, list(range(len(ids)))):
        emitted += piece
        assert full.startswith(emitted)
        assert ("\ufffd" in piece) <= ("\ufffd" in full)


def test_an_emoji_comes_out_whole_with_its_last_byte() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("🦀").ids
    stream = IncrementalDetokenizer(tokenizer)
    assert [stream.push([index]) for index in ids] == [""] * (len(ids) - 1) + ["🦀"]


def test_text_comes_out_as_soon_as_it_is_certain() -> None:
    for kind in (byte_level, llama_like, unigram_metaspace, word_piece):
        tokenizer = kind()
        ids = tokenizer.encode("the lazy dog").ids
        stream = IncrementalDetokenizer(tokenizer)
        out = "".join([stream.push([index]) for index in ids])
        assert out == tokenizer.decode(ids)
        assert stream.finish() == ""


def test_a_space_survives_a_special_token_before_it() -> None:
    tokenizer = llama_like()
    [end] = tokenizer.encode("<|end|>", add_special_tokens=False).ids
    the = fallback_vocabulary()["▁the"]
    stream = IncrementalDetokenizer(tokenizer)
    assert stream.push([end]) == ""
    assert stream.push([the]) == "the"
    assert stream.push([end, end, end]) == ""
    assert stream.push([the]) == " the"


def test_only_the_start_of_the_text_is_stripped() -> None:
    tokenizer = wide_strip()
    space, the = (fallback_vocabulary()[piece] for piece in ("▁", "▁the"))
    for ids in ([space] * 3 + [the], [space, the], [the, *[space] * 6, the], [space] * 9):
        assert "".join(pieces_of(tokenizer, ids, list(range(10)))) == tokenizer.decode(ids)


def test_half_a_character_at_the_end_is_shown_as_the_full_decode_shows_it() -> None:
    for kind in (byte_level, llama_like):
        tokenizer = kind()
        ids = tokenizer.encode("a🦀").ids[:-1]
        stream = IncrementalDetokenizer(tokenizer)
        assert "\ufffd" not in stream.push(ids)
        assert stream.finish().startswith("\ufffd")
        assert "".join(pieces_of(tokenizer, ids, [])) == tokenizer.decode(ids)


@EVERY_KIND
def test_work_is_linear(kind: Callable[[], Tokenizer]) -> None:
    tokenizer = kind()
    ids = tokenizer.encode("the lazy dog 👍👍👍. ").ids * 1_500
    stream = IncrementalDetokenizer(tokenizer)
    began = time.perf_counter()
    for index in ids:
        stream.push([index])
    assert time.perf_counter() - began < 10.0  # quadratic work would take minutes


def test_a_long_run_of_bytes_is_linear_too() -> None:
    tokenizer = llama_like()
    ids = [*"👍".encode()] * 10_000
    stream = IncrementalDetokenizer(tokenizer)
    began = time.perf_counter()
    assert "".join([stream.push([index]) for index in ids]) + stream.finish() == "👍" * 10_000
    assert time.perf_counter() - began < 5.0
