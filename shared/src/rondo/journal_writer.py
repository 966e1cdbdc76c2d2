"""Writes decision journals from a thread of their own: no disk can hold up or harm a scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rondo.journal import (
    SUFFIX,
    Ending,
    JournalHeader,
    end_bytes,
    header_bytes,
    record_bytes,
)
from rondo.policy.catalog import PolicySettings
from rondo.policy.events import Decision, Event

#: What a process that is killed may lose.
FLUSH_INTERVAL_S = 0.5
#: So much may wait for the disk before the journal gives up.
MAX_BACKLOG_BYTES = 64 << 20
DEFAULT_MAX_BYTES = 1 << 30
#: Files of one name; a bus that lost its store counts epochs anew.
MAX_NAMESAKES = 1000

#: Told once when a journal ends early: FULL, SLOW or FAILED, and details. Called on any thread.
Stopped = Callable[[Ending, str], None]


class JournalWriter:
    """One file. A journal that cannot go on ends, says so to `stopped`, and ignores what follows.

    Args:
        path: where to write; an existing file is kept and the new one gets a number.
        max_bytes: size limit. The beginning is what is kept, for a replay has to start there.
        max_backlog_bytes: limit of what waits for the disk.
    """

    def __init__(
        self,
        path: Path,
        header: JournalHeader,
        stopped: Stopped,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
    ) -> None:
        self.path = path
        self._stopped = stopped
        self._max_backlog_bytes = max_backlog_bytes
        self._lock = threading.Lock()  # over the four below
        self._frames = [header_bytes(header)]
        self._backlog_bytes = len(self._frames[0])
        self._room_bytes = max_bytes - self._backlog_bytes - len(end_bytes(Ending.CLOSED))
        self._open = True
        self._told = False
        self._work = threading.Event()
        self._work.set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"journal {path.name}", daemon=True)
        self._thread.start()

    def append(self, event: Event, decision: Decision) -> bool:
        """Adds a record; whether the journal took it. Neither waits for the disk nor raises."""
        if not self._open:
            return False
        try:
            frame = record_bytes(event, decision)
        except Exception as error:  # whatever it is, the scheduler must not suffer from it
            self._give_up(Ending.FAILED, f"{type(error).__name__}: {error}")
            return False
        if len(frame) > self._room_bytes:
            self._give_up(Ending.FULL, "it has reached its size limit")
            return False
        if self._backlog_bytes + len(frame) > self._max_backlog_bytes:
            self._give_up(Ending.SLOW, f"{self._backlog_bytes} bytes wait for the disk")
            return False
        with self._lock:
            self._frames.append(frame)
            self._backlog_bytes += len(frame)
            self._room_bytes -= len(frame)
        self._work.set()
        return True

    def close(self) -> None:
        """Takes no more; what was taken is written soon. Does not wait."""
        self._end(Ending.CLOSED)

    def join(self, timeout_s: float) -> bool:
        """Waits until all is written; False when that took longer. Close it first."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _give_up(self, ending: Ending, detail: str) -> None:
        self._end(ending)
        if not self._told:
            self._told = True
            self._stopped(ending, f"{self.path}: {detail}")

    def _end(self, ending: Ending) -> None:
        with self._lock:
            if self._open:
                self._open = False
                self._frames.append(end_bytes(ending))
        self._closing.set()
        self._work.set()

    # The thread

    def _run(self) -> None:
        try:
            with _open_new(self.path) as file:
                self.path = Path(file.name)
                done = False
                while not done:
                    self._work.wait()
                    self._closing.wait(FLUSH_INTERVAL_S)  # more may come, for the same write
                    frames, done = self._take()
                    file.writelines(frames)
                    file.flush()
        except OSError as error:
            self._give_up(Ending.FAILED, str(error))
            self._take()

    def _take(self) -> tuple[list[bytes], bool]:
        """What is to be written, and whether it is the last."""
        with self._lock:
            frames, self._frames = self._frames, []
            self._backlog_bytes = 0
            self._work.clear()
            return frames, not self._open


class JournalFolder:
    """Starts a journal for each epoch of each macro-instance, all of one policy.

    Args:
        policy, settings: arguments of `make_policy`.
        recorded_by: id of the program, part of the files' names.
    """

    def __init__(
        self,
        folder: Path,
        policy: str,
        settings: PolicySettings,
        recorded_by: str,
        stopped: Stopped,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self.folder = folder
        self._policy = policy
        self._settings = settings
        self._recorded_by = recorded_by
        self._stopped = stopped
        self._max_bytes = max_bytes
        self._writers: list[JournalWriter] = []

    def start(self, macro_id: str, epoch: int) -> JournalWriter:
        """A journal for one epoch."""
        header = JournalHeader(
            macro_id=macro_id,
            epoch=epoch,
            recorded_by=self._recorded_by,
            policy=self._policy,
            settings=self._settings,
        )
        path = self.folder / f"{macro_id}-{epoch}-{self._recorded_by}{SUFFIX}"
        writer = JournalWriter(path, header, self._stopped, max_bytes=self._max_bytes)
        self._writers = [known for known in self._writers if not known.join(0.0)] + [writer]
        return writer

    def close(self, timeout_s: float) -> bool:
        """Closes all journals and waits, no longer than this in all; whether all is written."""
        deadline_s = time.monotonic() + timeout_s
        for writer in self._writers:
            writer.close()
        return all(w.join(max(0.0, deadline_s - time.monotonic())) for w in self._writers)


def _open_new(path: Path) -> BinaryIO:
    """A file that was not there before: `path`, or a name with a number where that is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, MAX_NAMESAKES):
        name = path.stem if number == 1 else f"{path.stem}-{number}"
        try:
            return path.with_name(name + path.suffix).open("xb")
        except FileExistsError:
            continue
    raise FileExistsError(f"{path}: {MAX_NAMESAKES} files of this name")
