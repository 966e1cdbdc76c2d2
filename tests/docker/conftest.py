"""A compose project of its own for the tests in this folder; they run with `make test-docker`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.docker.project import BASE_IMAGES, Project, why_no_image

#: Set by `make test-docker`: these tests build images, take minutes, and need a docker daemon.
SWITCH = "RONDO_TEST_DOCKER"
#: Name of the compose project, for whoever wants to be sure that nothing of it stays.
NAME = "RONDO_TEST_PROJECT"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "docker: needs a docker daemon and compose v2")


def _missing() -> str | None:
    if not os.environ.get(SWITCH):
        return f"docker tests run with `make test-docker` ({SWITCH} is not set)"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            return f"docker is not available here: {error}"
    for image in BASE_IMAGES:
        if problem := why_no_image(image):
            return f"{image} cannot be had here: {problem}"
    return None


@pytest.fixture(scope="session")
def project(request: pytest.FixtureRequest) -> Iterator[Project]:
    """The cluster of deploy/compose as it is, healthy."""
    if reason := _missing():
        pytest.skip(reason)
    project = Project(os.environ.get(NAME) or f"rondo-test-{os.getpid()}")
    project.build()
    healthy = False
    try:
        project.up()
        healthy = True
        yield project
    finally:
        if not healthy or request.session.testsfailed:
            print(f"logs: {project.save_logs()}")
        project.compose("--profile", "*", "down", "--volumes", "--timeout", "0")
    assert project.leftovers() == []
