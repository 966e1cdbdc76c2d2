"""Each service installs alone, with its own dependencies, and starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Service -> modules that must not come along.
SERVICES = {
    "gateway": ["torch", "rondo_worker", "rondo_coordinator"],
    "coordinator": ["torch", "fastapi", "rondo_worker", "rondo_gateway"],
    "worker": ["torch", "fastapi", "rondo_coordinator", "rondo_gateway"],
}


def run(*command: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RONDO_", "PYTHON"))}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_installs_alone(service: str, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = (python, "-m", "pip", "install", "--quiet", "-c", "constraints.txt")
    run(*pip, "setuptools")
    run(*pip, "--no-build-isolation", "-e", "./shared", "-e", f"./services/{service}")
    module = f"rondo_{service}"
    assert "NATS_URL" in run(python, "-m", module, "--help")
    found = run(
        python,
        "-c",
        "import importlib.util, sys\n"
        "print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])",
        *SERVICES[service],
    )
    assert found.strip() == "[]"
