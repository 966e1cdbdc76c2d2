"""Runs engines in turns, each in a child process, and takes medians over the rounds."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import IO, Any, TypeVar

import msgspec

from rondo.errors import ConfigError, RondoError
from rondo_bench.engines.cases import CASES, Case
from rondo_bench.engines.child import Loaded, Result, Run, Start
from rondo_bench.engines.shape import Shape

ENGINES = ("torch", "transformers", "vllm", "vllm_phase")
VLLM_ENGINES = ("vllm", "vllm_phase")
#: Longest wait for one answer of a child: loading, or one case.
ANSWER_TIMEOUT_S = 600.0
#: How long a child may take to end.
END_TIMEOUT_S = 10.0
#: KV pools are multiples of this, which is one of every engine's block size.
POOL_UNIT_TOKENS = 128

Table = dict[str, dict[str, float]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What to compare. `engines` are names of `ENGINES`; `dtype` is float32 or bfloat16."""

    engines: tuple[str, ...]
    dtype: str
    rounds: int
    threads: int
    shape: Shape = field(default_factory=Shape)
    cases: Mapping[str, Case] = field(default_factory=lambda: CASES)


class ChildError(RondoError):
    """A child process ended or did not answer; carries the end of its log."""


class Child:
    """`python -m rondo_bench.engines.child` with one engine loaded."""

    def __init__(self, engine: str, options: Options, folder: Path, log: Path) -> None:
        self.engine = engine
        self._log_path = log
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [python_of(engine), "-m", "rondo_bench.engines.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
        )
        self._start = Start(
            engine=engine,
            folder=str(folder),
            dtype=options.dtype,
            threads=options.threads,
            vocabulary=options.shape.vocabulary,
            pool_tokens=pool_tokens(options.cases.values()),
        )

    def load(self) -> dict[str, str]:
        """Waits until the engine is loaded; the versions of what it consists of.

        Raises:
            ChildError: it cannot be loaded.
        """
        self._send(self._start)
        return self._receive(Loaded).versions

    def run(self, case: Case, seed: int) -> float:
        """Measures a case; tokens a second.

        Raises:
            ChildError: the engine failed.
        """
        self._send(Run(case=case, seed=seed))
        return self._receive(Result).tokens_per_s

    def close(self) -> None:
        """Ends the process."""
        with suppress(BrokenPipeError):
            self._pipe(self._process.stdin).close()
        self._end()
        self._pipe(self._process.stdout).close()
        self._log.close()

    def _send(self, message: msgspec.Struct) -> None:
        pipe = self._pipe(self._process.stdin)
        try:
            pipe.write(msgspec.json.encode(message) + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._failure("has ended") from None

    def _receive(self, kind: type[T]) -> T:
        pipe = self._pipe(self._process.stdout)
        if not select.select([pipe], [], [], ANSWER_TIMEOUT_S)[0]:
            raise self._failure(f"gave no answer for {ANSWER_TIMEOUT_S:g} s")
        line = pipe.readline()
        if not line:
            raise self._failure("has ended")
        return msgspec.json.decode(line, type=kind)

    def _end(self) -> None:
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _failure(self, what: str) -> ChildError:
        self._end()  # so that its log is complete
        tail = "\n".join(self._log_path.read_text(errors="replace").splitlines()[-15:])
        return ChildError(f"the process of {self.engine} {what}; the end of its log:\n{tail}")

    @staticmethod
    def _pipe(pipe: IO[Any] | None) -> IO[Any]:
        assert pipe is not None  # both are opened above
        return pipe


def compare(options: Options, tell: Callable[[str], None]) -> tuple[Table, dict[str, str]]:
    """Medians of tokens a second, by engine and case; and the versions that were measured.

    One round runs every case on every engine before the next begins, and each round begins with
    another engine; the first round only warms up. `tell` gets a line about what happens.
    """
    speeds: dict[str, dict[str, list[float]]] = {
        engine: {case: [] for case in options.cases} for engine in options.engines
    }
    versions: dict[str, str] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rondo-engines-")))
        options.shape.write(scratch / "model")
        children: list[Child] = []
        for engine in options.engines:
            tell(f"loading {engine}")
            child = Child(engine, options, scratch / "model", scratch / f"{engine}.log")
            stack.callback(child.close)
            children.append(child)
            versions |= child.load()
        for number in range(options.rounds + 1):
            turn = number % len(children)
            for name, case in options.cases.items():
                for child in children[turn:] + children[:turn]:
                    speed = child.run(case, seed=number)
                    if number:
                        speeds[child.engine][name].append(speed)
            tell(f"round {number} of {options.rounds}" if number else "warmed up")
    table = {
        engine: {case: round(median(values), 1) for case, values in cases.items()}
        for engine, cases in speeds.items()
    }
    return table, versions


def available_engines() -> tuple[str, ...]:
    """The engines that can be measured here.

    Raises:
        ConfigError: transformers, the baseline, is not installed.
    """
    if find_spec("transformers") is None:
        raise ConfigError("engines", "transformers is not installed: make install-dev")
    return ENGINES if vllm_python() else tuple(e for e in ENGINES if e not in VLLM_ENGINES)


def vllm_python() -> str | None:
    """The Python that has vllm: this one, or that of .venv-vllm beside this venv; else None."""
    if find_spec("vllm"):
        return sys.executable
    python = Path(sys.prefix).parent / ".venv-vllm" / "bin" / "python"
    return str(python) if python.exists() else None


def python_of(engine: str) -> str:
    """The Python to run an engine with."""
    python = vllm_python() if engine in VLLM_ENGINES else sys.executable
    if python is None:
        raise ConfigError("--engines", f"{engine} needs vllm: make install-vllm")
    return python


def pool_tokens(cases: Iterable[Case]) -> int:
    """Tokens of a KV pool that holds each of the cases, with what blocks round up to."""
    need = max(case.pool_tokens + case.batch * POOL_UNIT_TOKENS for case in cases)
    return -(-need // POOL_UNIT_TOKENS) * POOL_UNIT_TOKENS
