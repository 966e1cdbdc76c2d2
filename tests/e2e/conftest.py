"""Clusters that several test files share; starting one takes seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.support.cluster import FAST_PROFILE, Cluster, running


@pytest.fixture(scope="session")
def fast_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An emulated GPU with steps of a few milliseconds."""
    path = tmp_path_factory.mktemp("profile") / "fast.json"
    path.write_text(json.dumps(FAST_PROFILE))
    return path


@pytest.fixture(scope="session")
def torch_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two torch workers with the model that ships."""
    with running(tmp_path_factory.mktemp("torch")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def emulated_cluster(
    tmp_path_factory: pytest.TempPathFactory, fast_profile: Path
) -> Iterator[Cluster]:
    """Four emulated workers."""
    options = ("--engine", "emulated", "--workers", "4", "--profile", str(fast_profile))
    with running(tmp_path_factory.mktemp("emulated"), *options) as cluster:
        yield cluster


@pytest.fixture
def client(torch_cluster: Cluster) -> Iterator[OpenAI]:
    """OpenAI's own client, without tries of its own."""
    with OpenAI(base_url=f"{torch_cluster.url}/v1", api_key="none", max_retries=0) as client:
        yield client
