"""Which CUDA devices the workers of a local cluster get."""

from __future__ import annotations

from pathlib import Path

import pytest

from rondo.local.devices import VISIBLE, cuda_devices, devices_needed, devices_of

FOUR = ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("devices", "needed", "shares"),
    [
        (FOUR, 1, ["0", "1", "2", "3", "0"]),
        (FOUR, 2, ["0,1", "2,3", "0,1"]),
        (FOUR, 3, ["0,1,2", "0,1,2"]),
        (FOUR, 4, ["", ""]),
        (["GPU-a", "GPU-b"], 1, ["GPU-a", "GPU-b"]),
        (["0"], 1, ["", ""]),
        ([], 1, [""]),
        (FOUR, 0, [""]),
    ],
)
def test_each_worker_has_its_own_and_shares_when_there_are_too_few(
    devices: list[str], needed: int, shares: list[str]
) -> None:
    assert [devices_of(index, devices, needed) for index in range(len(shares))] == shares


@pytest.mark.parametrize(
    ("engine", "env", "needed"),
    [
        ("torch", {}, 1),
        ("torch", {"RONDO_DEVICE": "auto", "RONDO_TENSOR_PARALLEL": "2"}, 1),
        ("vllm", {"RONDO_TENSOR_PARALLEL": "2", "RONDO_PIPELINE_PARALLEL": "2"}, 4),
        ("pipeline", {"RONDO_PIPELINE_PARALLEL": "3"}, 3),
        ("vllm", {"RONDO_TENSOR_PARALLEL": "two"}, 1),
        ("torch", {"RONDO_DEVICE": "cuda:1"}, 0),
        ("torch", {"RONDO_DEVICE": "cpu"}, 0),
        ("emulated", {}, 0),
    ],
)
def test_what_a_worker_needs(engine: str, env: dict[str, str], needed: int) -> None:
    assert devices_needed(engine, env) == needed


def test_devices_are_those_that_are_visible_else_those_of_the_driver(tmp_path: Path) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n[ $1 = --query-gpu=index ] && printf '0\\n1\\n'\n")
    path = {"PATH": str(tmp_path)}
    assert cuda_devices(path) == []  # it cannot be run yet
    driver.chmod(0o700)
    assert cuda_devices(path) == ["0", "1"]
    assert cuda_devices({**path, VISIBLE: "2, GPU-x"}) == ["2", "GPU-x"]
    assert cuda_devices({**path, VISIBLE: ""}) == []
    driver.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert cuda_devices(path) == []
