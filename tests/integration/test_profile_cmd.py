"""rondo-bench profile measures real engines."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.perf.profile import load_profile
from rondo_bench import profile_cmd


def test_a_profile_of_the_model_that_ships_can_be_loaded(tmp_path: Path) -> None:
    out = tmp_path / "tiny.json"
    command = [sys.executable, "-m", "rondo_bench.cli", "profile", "--out", str(out)]
    result = subprocess.run(
        [*command, "--budget-s", "2"], capture_output=True, text=True, check=True, timeout=120
    )
    profile = load_profile(str(out))
    assert "rondo-tiny" in profile.source
    assert f"torch {version('torch')}" in profile.source
    assert 0 < profile.decode_s(8, 800) < 1
    assert profile.prefill_s([]) == 0
    fit = json.loads(out.read_text())["fit"]
    assert {"prefill", "decode"} <= set(fit), "and fused steps, if there was time"
    assert all(kind in result.stdout for kind in fit)


def test_an_emulated_engine_is_measured_under_a_name_of_its_own(tmp_path: Path) -> None:
    fields = {
        "prefill_floor_ms": [3.0, 0.0],
        "prefill_line_ms": [0.5, 0.01],
        "prefill_attn_ms": [0.0, 0.0, 0.0],
        "decode_ms": [2.0, 0.05, 0.0001],
        "num_blocks": 777,
    }
    given, out = tmp_path / "given.json", tmp_path / "found.json"
    given.write_text(json.dumps(fields))
    options = ["--engine", "emulated", "--profile", str(given), "--take", "minimum"]
    command = [sys.executable, "-m", "rondo_bench.cli", "profile", "--out", str(out), *options]
    subprocess.run([*command, "--budget-s", "2", "--name", "echo"], check=True, timeout=120)
    found = load_profile(str(out))
    assert (found.name, found.num_blocks) == ("echo", 777)
    assert "emulated engine" in found.source
    assert "minimum of" in found.source
    assert found.step_s(64, 64**2, 8, 800) > 0


def test_vllm_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("vllm"):
        pytest.skip("vllm is installed in this venv")
    parser = argparse.ArgumentParser()
    profile_cmd.add_parser(parser.add_subparsers())
    args = parser.parse_args(["profile", "--engine", "vllm", "--out", "x.json"])
    monkeypatch.setattr(profile_cmd, "vllm_python", lambda: None)
    with pytest.raises(ConfigError, match="make install-vllm"):
        args.run(args)


def test_other_commands_do_not_wait_for_torch() -> None:
    code = "import sys, rondo_bench.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
