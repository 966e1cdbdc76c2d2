"""Each service installs alone, with its own dependencies, and starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

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


def download(folder: Path) -> None:
    """What the services depend on. Once: an index has thousands of files to look through."""
    projects = [ROOT / "shared", *(ROOT / "services" / service for service in SERVICES)]
    names = {"setuptools"}
    for project in projects:
        manifest = tomllib.loads((project / "pyproject.toml").read_text())
        names.update(manifest["project"]["dependencies"])
    wanted = sorted(name for name in names if not name.startswith("rondo"))
    run(*PIP, "download", "--quiet", "-c", "constraints.txt", "--dest", str(folder), *wanted)


def install(service: str, folder: Path, wheels: Path) -> str:
    """A venv with one service alone; its python."""
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = str(folder / "bin" / "python")
    pip = (*PIP, "--python", python, "install", "--quiet", "--no-compile")
    found = ("--no-index", "--find-links", str(wheels))
    run(*pip, *found, "setuptools")
    run(*pip, *found, "--no-build-isolation", "-e", "./shared", "-e", f"./services/{service}")
    return python


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All services installed, side by side: pip waits as much as it works."""
    folder = tmp_path_factory.mktemp("installs")
    download(folder / "wheels")
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda name: install(name, folder / name, folder / "wheels"), SERVICES)
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
