"""The stage processes of one engine: started, written to, read from, ended.

They come from Python's fork server, which has torch loaded: a stage starts in a fraction of a
second, and no thread of this process is forked.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import selectors
import shutil
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec

from rondo.errors import ConfigError, ModelError
from rondo_worker.engines.base import EngineGone
from rondo_worker.engines.pipeline.messages import (
    Command,
    LoadFailed,
    Report,
    StageOptions,
    decode_report,
    encode,
)

#: Weights of any size are read within it.
LOAD_TIMEOUT_S = 1800.0
#: How long a stage may take to end by itself before it is killed.
END_TIMEOUT_S = 2.0


class StageProcesses:
    """All stages of an engine. When one of them ends, all do.

    Args:
        options: of each stage, in order, without their `rendezvous`.
    """

    def __init__(self, options: Sequence[StageOptions]) -> None:
        from rondo_worker.engines.pipeline.stage import run_stage

        self._folder = tempfile.mkdtemp(prefix="rondo-pipeline-")
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        self._selector = selectors.DefaultSelector()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["rondo_worker.engines.pipeline.stage"])
        try:
            for number, given in enumerate(options):
                ours, theirs = multiprocessing.Pipe()
                frame = encode(_with_rendezvous(given, Path(self._folder) / "stages"))
                process = context.Process(
                    target=run_stage, args=(frame, theirs), name=f"stage{number}", daemon=True
                )
                process.start()
                theirs.close()
                self._processes.append(process)
                self._connections.append(ours)
                self._selector.register(ours, selectors.EVENT_READ, number)
        except BaseException:
            self.end()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes' ids, for tools and tests."""
        return tuple(process.pid or 0 for process in self._processes)

    def tell(self, command: Command) -> None:
        """Sends a command to every stage.

        Raises:
            EngineGone: one of them is gone; all are ended.
        """
        if not self._connections:
            raise EngineGone("the engine is closed")
        frame = encode(command)
        for number, connection in enumerate(self._connections):
            try:
                connection.send_bytes(frame)
            except OSError:
                raise self._gone(number) from None

    def hear(self, timeout_s: float | None) -> list[tuple[int, Report]]:
        """What stages have to say, with their numbers; waits for the first report, and returns
        none when none came in time. None: no limit.

        Raises:
            EngineGone: one of them is gone; all are ended.
        """
        if not self._connections:
            raise EngineGone("the engine is closed")
        heard: list[tuple[int, Report]] = []
        for key, _ in self._selector.select(timeout_s):
            number = int(key.data)
            connection = self._connections[number]
            try:
                while connection.poll():
                    heard.append((number, decode_report(connection.recv_bytes())))
            except (EOFError, OSError):
                if any(isinstance(report, LoadFailed) for _, report in heard):
                    return heard  # it told why it ends
                raise self._gone(number) from None
        return heard

    def gather(self, timeout_s: float = LOAD_TIMEOUT_S) -> list[Report]:
        """One report of each stage, while they load.

        Raises:
            ConfigError, ModelError: a stage says that it cannot load.
            EngineGone: a stage is gone, or takes too long.
        """
        reports: dict[int, Report] = {}
        end_s = time.monotonic() + timeout_s
        while len(reports) < len(self._connections):
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                self.end()
                raise EngineGone(f"a stage has not loaded within {timeout_s:g} s")
            for number, report in self.hear(left_s):
                if isinstance(report, LoadFailed):
                    self.end()
                    kind = ModelError if report.model else ConfigError
                    raise kind(report.setting, report.problem)
                reports[number] = report
        return [reports[number] for number in sorted(reports)]

    def end(self) -> None:
        """Ends all processes and waits until they are gone; may be called again."""
        for connection in self._connections:
            self._selector.unregister(connection)
            connection.close()  # which is what a stage ends by
        self._connections = []
        end_s = time.monotonic() + END_TIMEOUT_S
        for process in self._processes:
            process.join(max(0.0, end_s - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            with contextlib.suppress(ValueError):
                process.close()
        self._processes = []
        self._selector.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _gone(self, number: int) -> EngineGone:
        """The error for a stage that is gone; ends the others."""
        process = self._processes[number]
        process.join(END_TIMEOUT_S)
        code = process.exitcode
        self.end()
        return EngineGone(f"stage {number} of the pipeline died with exit code {code}")


def _with_rendezvous(options: StageOptions, path: Path) -> StageOptions:
    return msgspec.structs.replace(options, rendezvous=str(path))
