"""`.ci/docker` on machines with docker, with something that brings it, and with neither."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "docker"
LEFT_OUT = "the tests of deploy/compose are left out"

#: Works once there is a configuration; logs what it is asked.
DOCKER = '#!/bin/sh\necho "docker $*" >> "$LOG"\ntest -d "${DOCKER_CONFIG:-/nowhere}"\n'
MAKE = '#!/bin/sh\necho "make $* for $RONDO_TEST_PROJECT" >> "$LOG"\nsleep "${TAKES:-0}"\n'
PREPARE = 'export DOCKER_CONFIG=$(mktemp -d "$TMPDIR/config XXXX")\n'


class Machine:
    """A checkout of that script alone, and the commands that it calls."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.prepare = folder / "shared" / "docker" / "prepare.sh"
        self.log = folder / "log"
        self.bin = folder / "bin"
        for path in (self.checkout / ".ci", self.prepare.parent, self.bin):
            path.mkdir(parents=True)
        shutil.copy(SCRIPT, self.checkout / ".ci")
        self.command("docker", DOCKER)
        self.command("make", MAKE)
        self.env = {"PATH": f"{self.bin}:/usr/bin:/bin", "LOG": str(self.log), "CI": "true"}
        self.env["TMPDIR"] = str(folder)
        self.pidfile = folder / "docker.pid"
        self.env["DOCKERD_PIDFILE"] = str(self.pidfile)

    def command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start_daemon(self) -> str:
        """Commands that leave a `dockerd` running."""
        shutil.copy(shutil.which("sleep") or "/bin/sleep", self.bin / "dockerd")
        started = f"setsid dockerd 60 >/dev/null 2>&1 &\necho $! > '{self.pidfile}'\n"
        return started + 'until [ "$(cat /proc/$!/comm)" = dockerd ]; do sleep 0.01; done\n'

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.checkout / ".ci" / "docker"],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self) -> tuple[int, str]:
        process = self.start()
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_docker_they_are_left_out_in_one_line(machine: Machine) -> None:
    code, said = machine.run()
    assert code == 0
    assert said.startswith(LEFT_OUT)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["exit 7", "false", "set -eu; $nothing", "kill -KILL $$", "syntax ) error", "cat; read x"],
)
def test_what_should_bring_docker_may_fail(machine: Machine, text: str) -> None:
    machine.prepare.write_text(text)
    code, said = machine.run()
    assert code == 0
    assert said.splitlines()[-1].startswith(LEFT_OUT)
    assert not any(line.startswith("make") for line in machine.lines())


def test_what_brings_docker_is_used_and_everything_is_taken_down(machine: Machine) -> None:
    machine.prepare.write_text(PREPARE)
    code, _ = machine.run()
    assert code == 0
    (made,) = [line for line in machine.lines() if line.startswith("make test-docker for ")]
    project = made.rpartition(" ")[2]
    last = machine.lines()[-1]
    assert f"--project-name {project} --profile * down --volumes" in last


def test_where_docker_works_nothing_is_prepared(machine: Machine, tmp_path: Path) -> None:
    machine.prepare.write_text("exit 1")
    machine.env["DOCKER_CONFIG"] = str(tmp_path)
    code, said = machine.run()
    assert (code, said) == (0, "")
    assert any(line.startswith("make test-docker") for line in machine.lines())


def test_a_test_that_fails_is_a_failure_and_still_taken_down(machine: Machine) -> None:
    machine.prepare.write_text(PREPARE)
    machine.command("make", "#!/bin/sh\nexit 3\n")
    code, _ = machine.run()
    assert code == 3
    assert "down --volumes" in machine.lines()[-1]


def test_whoever_is_told_to_stop_takes_down_too(machine: Machine) -> None:
    machine.prepare.write_text(PREPARE)
    machine.env["TAKES"] = "30"
    process = machine.start()
    deadline_s = time.monotonic() + 30
    while not any(line.startswith("make") for line in machine.lines()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)  # as whoever runs this does
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert "down --volumes" in machine.lines()[-1]


def test_a_daemon_that_would_not_run_without_it_is_ended(machine: Machine) -> None:
    machine.prepare.write_text(machine.start_daemon() + PREPARE)
    assert machine.run() == (0, "")
    assert not Path(f"/proc/{int(machine.pidfile.read_text())}/exe").exists()


def test_a_daemon_is_ended_too_that_was_of_no_use(machine: Machine) -> None:
    machine.prepare.write_text(machine.start_daemon() + "false")
    code, said = machine.run()
    assert (code, said.count(LEFT_OUT)) == (0, 1)
    assert not Path(f"/proc/{int(machine.pidfile.read_text())}/exe").exists()


def test_the_daemon_of_somebody_else_goes_on(machine: Machine) -> None:
    subprocess.run(["bash", "-c", machine.start_daemon()], env=machine.env, check=True)
    pid = int(machine.pidfile.read_text())
    try:
        machine.prepare.write_text(PREPARE)
        assert machine.run() == (0, "")
        assert Path(f"/proc/{pid}/exe").exists()
    finally:
        os.kill(pid, signal.SIGKILL)
