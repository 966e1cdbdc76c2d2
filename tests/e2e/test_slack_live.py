"""`rondo-bench slack --live`: a real cluster, online requests, and a batch beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_both_sides_are_served_and_the_batch_gets_tokens(
    tmp_path: Path, fast_profile: Path
) -> None:
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("num_prefill_tokens,num_decode_tokens\n" + "20,12\n30,8\n" * 20)
    options = ["--instances", "2", "--requests", "12", "--lines", "400", "--seeds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "rondo_bench.cli", "slack", "--live", "--goodput", "12"]
        + ["--shares", "0.5", "--profile", str(fast_profile), "--lengths", str(lengths), *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["rows"]
    assert row["rate"] == 6.0
    assert row["attainment"] == [1.0, 1.0]
    assert row["answer_tokens_per_s"] > 0
    assert row["lines_per_s"] > 0
