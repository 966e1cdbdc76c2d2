"""Tests of the vLLM engine; where vllm is not installed, those that need it are not collected."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.models import build_model

NEED_VLLM = ["test_plain.py", "test_sampling.py", "test_startup.py", "test_steps.py"]
collect_ignore = [] if find_spec("vllm") else NEED_VLLM


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with heads of 32, the smallest that vLLM's kernels for the CPU take."""
    folder = tmp_path_factory.mktemp("model")
    build_model("llama", head_dim=32).save_pretrained(folder)
    return folder
