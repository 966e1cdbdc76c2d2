"""The documents name what is there, and nothing that is not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import msgspec

from rondo.service.settings import variable
from rondo.wire import messages
from rondo_coordinator.settings import CoordinatorSettings
from rondo_gateway.settings import GatewaySettings
from rondo_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
PACKAGES = [
    "shared/src/rondo",
    "services/gateway/src/rondo_gateway",
    "services/coordinator/src/rondo_coordinator",
    "services/worker/src/rondo_worker",
    "bench/src/rondo_bench",
    "tools/rondo_tiny",
    "tools/perf",
]


def test_architecture_lists_every_module_with_its_first_line() -> None:
    sections = (ROOT / "ARCHITECTURE.md").read_text().split("\n### ")[1:]
    for package, section in zip(PACKAGES, sections, strict=True):
        assert package in section.splitlines()[0]
        listed = dict(re.findall(r"^\| `([^`]+\.py)` \| (.*) \|$", section, re.MULTILINE))
        folder = ROOT / package
        modules = {
            str(path.relative_to(folder)): path.read_text().splitlines()[0].lstrip("r").strip('"')
            for path in sorted(folder.rglob("*.py"))
            if path.name != "__init__.py"
        }
        assert listed == modules


def test_operations_lists_every_setting() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    for settings in (GatewaySettings, CoordinatorSettings, WorkerSettings):
        for field in msgspec.structs.fields(settings):
            assert f"`{variable(field.name)}`" in text, variable(field.name)


def test_wire_names_every_message() -> None:
    text = (ROOT / "docs/wire.md").read_text()
    for message in messages.Message.__args__:
        assert f"`{message.__name__}`" in text, message.__name__


def test_metrics_names_every_metric() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    for path in ROOT.glob("services/*/src/*/metrics.py"):
        for name in re.findall(r'"(rondo_[a-z_]+)"', path.read_text()):
            assert f"`{name}" in text, name


def test_links_between_documents_lead_somewhere() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        document = ROOT / name
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{name}: {target}"


def test_every_target_of_the_makefile_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    explained = set(re.findall(r"^([a-z0-9-]+):.*## .+$", makefile, re.MULTILINE))
    assert set(phony.group(1).split()) <= explained
