"""rondo-bench profile measures the real torch engine."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rondo.perf.profile import load_profile


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
    assert "prefill" in result.stdout
    assert "decode" in result.stdout


def test_other_commands_do_not_wait_for_torch() -> None:
    code = "import sys, rondo_bench.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
