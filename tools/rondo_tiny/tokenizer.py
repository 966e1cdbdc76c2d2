"""The byte-level tokenizer and the chat template of rondo-tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIALS = (
    "<|pad|>",
    "<|start|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|reserved_0|>",
    "<|reserved_1|>",
)
PAD, START, END, SYSTEM, USER, ASSISTANT = range(6)
VOCAB_SIZE = len(SPECIALS) + 256
MAX_LENGTH = 1024

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def encode_text(text: str) -> list[int]:
    """Encode text by arithmetic alone: one token for each byte of its UTF-8 form."""
    return [byte + len(SPECIALS) for byte in text.encode("utf-8")]


def byte_names() -> list[str]:
    """Return the printable character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def build_tokenizer() -> Tokenizer:
    """Build the tokenizer: specials first, then the 256 bytes, and no merges."""
    vocab = {token: index for index, token in enumerate((*SPECIALS, *byte_names()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """Return the contents of tokenizer_config.json."""
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": SPECIALS[START],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIALS[END],
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_LENGTH,
        "pad_token": SPECIALS[PAD],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    text = json.dumps(tokenizer_config(), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
