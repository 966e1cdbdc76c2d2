"""Reading a model's folder, and encoding with what was read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from rondo.errors import ModelError
from rondo.types import Sampling
from rondo_gateway.errors import ApiError
from rondo_gateway.text.encoding import encode
from rondo_gateway.text.model_files import ModelFiles

USER = [{"role": "user", "content": "hi"}]
TEMPLATE = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"


def small_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)]
    )
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "config.json", {"max_position_embeddings": 512, "vocab_size": 257})
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE}
    write(tmp_path, "tokenizer_config.json", config)
    return tmp_path


def write(folder: Path, name: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


def change(folder: Path, name: str, **fields: Any) -> None:
    write(folder, name, json.loads((folder / name).read_text()) | fields)


def test_a_plain_folder(folder: Path) -> None:
    files = ModelFiles.load("m", folder)
    assert (files.name, files.max_model_len, files.vocab_size) == ("m", 512, 257)
    assert files.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert files.default_sampling == Sampling()
    assert files.render_chat(USER) == "<s>hi</s>"


def test_named_templates(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    change(folder, "tokenizer_config.json", chat_template=named)
    assert ModelFiles.load("m", folder).render_chat(USER) == "d"


def test_the_templates_own_file_goes_first(folder: Path) -> None:
    write(folder, "chat_template.jinja", "from file {{ eos_token }}")
    assert ModelFiles.load("m", folder).render_chat(USER) == "from file </s>"


@pytest.mark.parametrize("entry", [None, [], [{"name": "tool_use", "template": "t"}]])
def test_without_a_chat_template_chats_are_a_clear_400(folder: Path, entry: Any) -> None:
    change(folder, "tokenizer_config.json", chat_template=entry)
    files = ModelFiles.load("m", folder)
    assert files.chat_template is None
    with pytest.raises(ApiError, match="no chat template") as caught:
        files.render_chat(USER)
    assert (caught.value.status, caught.value.param) == (400, "model")


def test_default_sampling(folder: Path) -> None:
    given = {"temperature": 0.6, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "eos_token_id": 2}
    write(folder, "generation_config.json", given | {"do_sample": True})
    wanted = Sampling(temperature=0.6, top_p=0.9, top_k=0, min_p=0.1)
    assert ModelFiles.load("m", folder).default_sampling == wanted
    write(folder, "generation_config.json", given)
    assert ModelFiles.load("m", folder).default_sampling == Sampling()
    write(folder, "generation_config.json", given | {"do_sample": False})
    assert ModelFiles.load("m", folder).default_sampling == Sampling(temperature=0.0)


@pytest.mark.parametrize(
    "config",
    [
        {"n_positions": 512, "vocab_size": 257},
        {"text_config": {"max_position_embeddings": 512, "vocab_size": 257}},
    ],
)
def test_other_spellings_of_the_context_length(folder: Path, config: dict[str, Any]) -> None:
    write(folder, "config.json", config)
    assert ModelFiles.load("m", folder).max_model_len == 512


def test_truncation_and_padding_in_the_file_are_off(folder: Path) -> None:
    tokenizer = small_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=10)
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = ModelFiles.load("m", folder).tokenizer
    assert len(loaded.encode("x" * 50, add_special_tokens=False).ids) == 50
    assert len(loaded.encode("x", add_special_tokens=False).ids) == 1


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("content", [None, "{", "[]", '"x"'])
def test_a_missing_or_bad_file_is_named(folder: Path, name: str, content: str | None) -> None:
    (folder / name).unlink()
    if content is not None:
        write(folder, name, content)
    with pytest.raises(ModelError, match="needed for") as caught:
        ModelFiles.load("m", folder)
    assert caught.value.setting == str(folder / name)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.json", {"vocab_size": 257}, "max_position_embeddings"),
        ("config.json", {"max_position_embeddings": 0, "vocab_size": 1}, "positive"),
        ("config.json", {"max_position_embeddings": 5}, "vocab_size"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template"),
        ("generation_config.json", {"do_sample": True, "top_p": "x"}, "top_p"),
        ("generation_config.json", "{", "default sampling"),
        ("chat_template.jinja", "{% if %}", "line 1"),
    ],
)
def test_a_bad_value_is_named(folder: Path, name: str, content: Any, problem: str) -> None:
    write(folder, name, content)
    with pytest.raises(ModelError, match=problem):
        ModelFiles.load("m", folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        ModelFiles.load("m", tmp_path / "nothing")


@pytest.mark.parametrize("text", ["hi", "long text, 你好 " * 500, ""])
async def test_encoding_equals_the_tokenizers_own(folder: Path, text: str) -> None:
    tokenizer = ModelFiles.load("m", folder).tokenizer
    for special in (True, False):
        ids = await encode(tokenizer, text, add_special_tokens=special)
        assert ids == tokenizer.encode(text, add_special_tokens=special).ids
        assert ids[:1] == [256] if special else 256 not in ids


async def test_encoding_a_big_text_leaves_the_event_loop_free(folder: Path) -> None:
    tokenizer = ModelFiles.load("m", folder).tokenizer
    encoding = asyncio.create_task(
        encode(tokenizer, "some words of text " * 50_000, add_special_tokens=False)
    )
    ticks = 0
    while not encoding.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert len(await encoding) == 950_000
    assert ticks >= 20  # blocked throughout, it would be one or two
