"""A whole local cluster, started with the command a user would type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rondo.local.process import die_with_parent

RONDO = str(Path(sys.executable).with_name("rondo"))
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
FAST_PROFILE = {
    "name": "test",
    "source": "made up: 4 ms prefill floor, 3 ms decode",
    "prefill_floor_ms": [4.0, 0.0],
    "prefill_line_ms": [1.0, 0.01],
    "prefill_attn_ms": [0.0, 0.0, 0.0],
    "decode_ms": [3.0, 0.02, 0.0],
    "block_size": 16,
    "num_blocks": 2048,
}


def clean_env(**extra: str) -> dict[str, str]:
    """The environment without settings of Rondo's that a developer may have set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RONDO_") and k != "NATS_URL"}
    return {**kept, **extra}


@dataclass
class Cluster:
    """A running `rondo up`."""

    process: subprocess.Popen[str]
    url: str
    run_dir: Path

    def cli(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Runs another command of the CLI on this cluster."""
        command = [RONDO, *args, "--run-dir", str(self.run_dir)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env=clean_env()
        )

    def status(self) -> dict[str, Any]:
        """The only macro-instance of `rondo status --json`."""
        result = self.cli("status", "--json")
        assert result.returncode == 0, result.stderr
        [macro] = json.loads(result.stdout)["macros"]
        assert isinstance(macro, dict)
        return macro

    def port(self, program: str) -> int:
        """The HTTP port of a program."""
        return int(json.loads((self.run_dir / f"{program}.port").read_text())["port"])

    def metric(self, program: str, name: str) -> float:
        """The sum of a metric's samples, over its labels and all programs of the kind."""
        files = [*self.run_dir.glob(f"{program}.port"), *self.run_dir.glob(f"{program}-*.port")]
        urls = [f"http://127.0.0.1:{self.port(file.stem)}/metrics" for file in files]
        lines = [
            line
            for url in urls
            for line in httpx.get(url).text.splitlines()
            if line.startswith(name)
        ]
        values = [line for line in lines if line[len(name)] in " {"]
        assert values, f"{program} has no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in values)

    def children(self) -> dict[int, str]:
        """Everything the launcher started: process id -> command line."""
        listing = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        rows = [line.strip().split(None, 1) for line in listing.stdout.splitlines()]
        return {int(pid): args for pid, args in rows}

    def pid(self, module: str) -> int:
        """The only process of a service."""
        [pid] = [pid for pid, args in self.children().items() if args.endswith(f"-m {module}")]
        return pid

    def pid_of(self, instance_id: str) -> int:
        """The process of a worker, by its instance id."""
        for pid, args in self.children().items():
            if args.endswith("-m rondo_worker"):
                environ = Path(f"/proc/{pid}/environ").read_bytes()
                if f"RONDO_INSTANCE_ID={instance_id}\0".encode() in environ:
                    return pid
        raise AssertionError(f"no process of {instance_id}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def running(run_dir: Path, *options: str, **env: str) -> Iterator[Cluster]:
    """`rondo up --port 0` with options; stopped at the end, if the test did not."""
    run_dir.mkdir(parents=True, exist_ok=True)
    log = run_dir / "up.log"
    command = [RONDO, "up", "--port", "0", "--run-dir", str(run_dir), *options]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=clean_env(**env),
            preexec_fn=die_with_parent,  # however this process ends: pytest -n may kill it
        )
    try:
        yield Cluster(process, _ready_url(process, log), run_dir)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()


def eventually(check: Any, what: str, timeout_s: float = 15.0) -> Any:
    """The first truthy value of `check()`, tried until `timeout_s` is over."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def _ready_url(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    for line in process.stdout:
        if line.startswith("ready "):
            return line.split()[1]
        assert time.monotonic() < deadline_s
    raise AssertionError(f"rondo up ended early:\n{log.read_text()}")
