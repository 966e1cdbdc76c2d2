"""The compose driver against a `docker` that is a script: what it runs, and what it makes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rondo.scaling.compose import ComposeFailed, ComposeInstances, ComposeProject

#: Keeps containers as files "<number> <state>" named by id; logs what it was asked.
DOCKER = """#!{python}
import json, pathlib, sys
root, args = pathlib.Path({root!r}), sys.argv[1:]
with (root / "log").open("a") as log:
    print(*args, file=log)
boxes = root / "boxes"
if (root / "broken").exists():
    sys.exit("no daemon")
if args[:2] == ["compose", "ps"]:
    for box in boxes.iterdir():
        number, state = box.read_text().split()
        print(json.dumps({{"ID": box.name, "Name": f"p-worker-{{number}}", "State": state}}))
elif args[:2] == ["compose", "rm"]:
    for box in boxes.iterdir():
        if box.read_text().endswith("exited"):
            box.unlink()
elif args[:2] == ["compose", "up"]:
    wanted = int(args[args.index("--scale") + 1].partition("=")[2])
    for number in range(len(list(boxes.iterdir())), wanted):
        (boxes / f"{{number + 100:064x}}"[::-1]).write_text(f"{{number + 1}} created")
elif args[0] == "rm":
    (boxes / args[1]).unlink()
"""


class Fake:
    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.boxes = folder / "boxes"
        self.boxes.mkdir()
        script = folder / "docker"
        script.write_text(DOCKER.format(python=python, root=str(folder)))
        script.chmod(0o755)

    def add(self, letter: str, number: int, state: str = "running") -> str:
        (self.boxes / (letter * 64)).write_text(f"{number} {state}")
        return letter * 12

    @property
    def commands(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Fake(tmp_path, sys.executable)


@pytest.fixture
def driver(fake: Fake) -> ComposeInstances:
    return ComposeInstances(ComposeProject(fake.folder), "worker")


async def test_what_runs_or_is_about_to_counts_the_oldest_first(
    fake: Fake, driver: ComposeInstances
) -> None:
    young, old = fake.add("a", 10), fake.add("b", 2, "restarting")
    fake.add("c", 3, "exited")
    await driver.refresh()
    assert driver.instance_ids == (old, young)


async def test_one_more_is_one_more_than_run_now(fake: Fake, driver: ComposeInstances) -> None:
    ids = fake.add("a", 1), fake.add("b", 2)
    fake.add("c", 3, "exited")  # compose would count it, and start it again
    added = await driver.start()
    assert driver.instance_ids == (*ids, added)
    (up,) = [command for command in fake.commands if command.startswith("compose up")]
    assert "--no-recreate" in up
    assert up.endswith("--scale worker=3 worker")


async def test_one_is_stopped_in_order_and_removed(fake: Fake, driver: ComposeInstances) -> None:
    first, second = fake.add("a", 1), fake.add("b", 2)
    await driver.stop(first)
    assert driver.instance_ids == (second,)
    assert fake.commands[-2:] == [f"stop {'a' * 64}", f"rm {'a' * 64}"]
    before = len(fake.commands)
    await driver.stop(first)  # somebody else may be faster
    assert not any(command.startswith("stop") for command in fake.commands[before:])


async def test_a_failure_says_what_was_run_and_what_docker_said(
    fake: Fake, driver: ComposeInstances
) -> None:
    (fake.folder / "broken").touch()
    with pytest.raises(ComposeFailed, match=r"docker compose ps .*: no daemon"):
        await driver.start()


async def test_no_docker_and_no_folder_are_failures_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ComposeFailed, match="nowhere"):
        await ComposeInstances(ComposeProject(tmp_path / "nowhere"), "worker").refresh()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComposeFailed, match="No such file"):
        await ComposeInstances(ComposeProject(tmp_path), "worker").refresh()


async def test_output_in_another_format_is_a_failure(fake: Fake, driver: ComposeInstances) -> None:
    (fake.folder / "docker").write_text(f"#!/bin/sh\necho '{json.dumps({'Id': 1})}'\n")
    with pytest.raises(ComposeFailed, match="unknown format"):
        await driver.refresh()
