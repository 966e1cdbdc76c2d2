"""Each service installs alone, with its own dependencies, and starts."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def install(service: str, folder: Path) -> str:
    """A venv with one service alone; its python."""
    run(sys.executable, "-m", "venv", str(folder))
    python = str(folder / "bin" / "python")
    pip = (python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", "constraints.txt")
    run(*pip, "setuptools")
    run(*pip, "--no-build-isolation", "-e", "./shared", "-e", f"./services/{service}")
    return python


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All services installed, side by side: pip waits as much as it works."""
    folder = tmp_path_factory.mktemp("installs")
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda service: install(service, folder / service), SERVICES)
        return dict(zip(SERVICES, done, strict=True))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_installs_alone(service: str, pythons: dict[str, str]) -> None:
    python = pythons[service]
    assert "NATS_URL" in run(python, "-m", f"rondo_{service}", "--help")
    found = run(
        python,
        "-c",
        "import importlib.util, sys\n"
        "print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])",
        *SERVICES[service],
    )
    assert found.strip() == "[]"
