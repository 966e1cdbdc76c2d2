"""The files of deploy/compose agree with each other and with the programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from rondo.service.settings import variable
from rondo_coordinator.settings import CoordinatorSettings
from rondo_gateway.settings import GatewaySettings
from rondo_worker.settings import WorkerSettings
from tests.docker.project import BASE_IMAGES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
COMPOSE = (FOLDER / "compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
LONG_RUNNING = sorted(SERVICES.keys() - {"secrets"})
DOCKERFILES = [*ROOT.glob("services/*/Dockerfile"), *FOLDER.glob("*/Dockerfile")]


def names_of(*settings: type[msgspec.Struct]) -> set[str]:
    return {variable(field.name) for cls in settings for field in msgspec.structs.fields(cls)}


def test_every_variable_is_explained_with_its_default() -> None:
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE))
    assert len(re.findall(r"\$\{", COMPOSE)) == len(re.findall(r"\$\{\w+:-", COMPOSE))
    example = (FOLDER / ".env.example").read_text()
    told = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE))
    told["RONDO_NATS_CONFIG"], told["RONDO_NATS_HOSTS"] = "single", "nats"  # shown for a cluster
    assert told == used
    assert not re.findall(r"^[A-Z]", example, re.MULTILINE)


def test_programs_know_the_settings_they_are_given() -> None:
    known = {
        "gateway": names_of(GatewaySettings),
        "coordinator": names_of(CoordinatorSettings),
        **dict.fromkeys(["worker", "worker-torch", "worker-vllm"], names_of(WorkerSettings)),
    }
    for service, names in known.items():
        given = set(SERVICES[service]["environment"]) - {"NATS_URL_FILE"}
        assert given <= names, service


def test_nothing_is_killed_before_its_drain_is_over() -> None:
    for service in ("gateway", "worker", "worker-torch", "worker-vllm"):
        drain_s = float(SERVICES[service]["environment"]["RONDO_DRAIN_TIMEOUT_S"])
        grace_s = float(SERVICES[service]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= drain_s + 10, service


def test_no_service_may_more_than_it_must() -> None:
    for service in LONG_RUNNING:
        spec = SERVICES[service]
        assert spec["read_only"], service
        assert spec["cap_drop"] == ["ALL"], service
        assert "cap_add" not in spec, service
        assert spec["restart"] == "unless-stopped", service
        assert ("ports" in spec) == (service in ("proxy", "prometheus", "grafana")), service
    assert SERVICES["secrets"]["network_mode"] == "none"


def test_images_run_as_nobody_in_particular_and_in_exec_form() -> None:
    assert len(DOCKERFILES) == 5
    for path in DOCKERFILES:
        text = path.read_text()
        final = text.rpartition("\nFROM ")[2]
        assert "USER 10001:10001" in final, path
        for keyword in ("ENTRYPOINT", "CMD"):
            lines = re.findall(rf"^\s*{keyword} (.*)$", text, re.MULTILINE)
            assert all(line.startswith("[") for line in lines), (path, keyword)
        assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE), path
        assert "org.opencontainers.image.title" in text, path


def test_what_images_start_from_is_known() -> None:
    started_from = {
        match
        for path in DOCKERFILES
        for match in re.findall(r"^ARG PYTHON_IMAGE=(.*)$", path.read_text(), re.MULTILINE)
    }
    as_they_are = {
        spec["image"]
        for spec in SERVICES.values()
        if "build" not in spec and "monitoring" not in spec.get("profiles", [])
    }
    assert started_from | as_they_are == set(BASE_IMAGES)


def test_stages_that_are_built_once_are_the_same_everywhere() -> None:
    """Else each image would have its own: minutes of building, and layers that nobody shares."""
    shared = {}
    for path in ROOT.glob("services/*/Dockerfile"):
        stages = re.split(r"^(?=FROM )", path.read_text(), flags=re.MULTILINE)
        instructions = [re.sub(r"^#.*\n|^\n", "", stage, flags=re.MULTILINE) for stage in stages]
        shared[path] = [text for text in instructions if " AS shared-" in text]
        assert len(shared[path]) == 2, path
    assert len({tuple(stages) for stages in shared.values()}) == 1


def _requirements(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", ROOT / "deploy" / "images" / "requirements.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("argument", "some", "none_of"),
    [
        ("shared", {"msgspec", "nats-py"}, {"numpy"}),
        ("services/coordinator", {"msgspec", "nats-py"}, {"fastapi"}),
        ("services/gateway", {"fastapi", "msgspec"}, {"numpy", "torch"}),
        ("services/gateway[lengths]", {"fastapi", "msgspec", "numpy", "safetensors"}, {"torch"}),
        ("services/worker", {"msgspec"}, {"numpy", "torch", "vllm"}),
        ("services/worker[torch]", {"msgspec", "numpy", "torch"}, {"vllm"}),
    ],
)
def test_images_get_what_a_project_needs_from_others(
    argument: str, some: set[str], none_of: set[str]
) -> None:
    names = {re.split(r"[=<>\[]", line)[0] for line in _requirements(argument).stdout.split()}
    assert names >= some
    assert not names & none_of
    assert not any(name.startswith("rondo") for name in names)


def test_an_extra_that_is_not_there_is_named() -> None:
    done = _requirements("services/worker[tea]")
    assert done.returncode == 1
    assert "services/worker has no extra 'tea'" in done.stderr
    assert "not FOLDER[EXTRA,...]: a]b" in _requirements("a]b").stderr
