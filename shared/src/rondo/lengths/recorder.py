"""Appends to a log of lengths from a thread of its own: no disk can hold up an answer."""

from __future__ import annotations

import logging
import os
import stat
import threading
from pathlib import Path

import msgspec

from rondo.errors import ConfigError
from rondo.lengths.records import LengthRecord

log = logging.getLogger("rondo.lengths")

#: What a program that is killed may lose.
FLUSH_INTERVAL_S = 0.5
#: So many prompt tokens may wait for the disk; records that come on top are dropped.
MAX_BACKLOG_TOKENS = 4 << 20


class LengthRecorder:
    """One log; several programs of a machine may append to the same.

    Args:
        path: made with mode 0600 if it is not there: it holds prompts.
        max_bytes: at this size of the file no more is recorded.
        setting: whose value the path is, for errors.

    Raises:
        ConfigError: the file cannot be written, or others may read it.
    """

    def __init__(self, path: Path, max_bytes: int, setting: str) -> None:
        self.path = path
        self.num_dropped = 0
        self._max_bytes = max_bytes
        self._file = _open(path, setting)
        self._lock = threading.Lock()  # over the three below
        self._records: list[LengthRecord] = []
        self._backlog_tokens = 0
        self._open = True
        self._work = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="length recorder", daemon=True)
        self._thread.start()

    def append(self, record: LengthRecord) -> bool:
        """Adds a record; whether it was taken. Neither waits for the disk nor raises."""
        with self._lock:
            full = self._backlog_tokens + len(record.prompt) > MAX_BACKLOG_TOKENS
            if full or not self._open:
                self.num_dropped += 1
                return False
            self._records.append(record)
            self._backlog_tokens += len(record.prompt)
        self._work.set()
        return True

    def close(self, timeout_s: float) -> bool:
        """Takes no more, and waits until all is written; False when that took longer."""
        self._end()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _end(self) -> None:
        with self._lock:
            self._open = False
        self._closing.set()
        self._work.set()

    # The thread

    def _run(self) -> None:
        encoder = msgspec.json.Encoder()
        try:
            last = False
            while not last:
                self._work.wait()
                self._closing.wait(FLUSH_INTERVAL_S)  # more may come, for the same write
                with self._lock:
                    records, self._records, self._backlog_tokens = self._records, [], 0
                    self._work.clear()
                    last = not self._open
                if not self._write(encoder.encode_lines(records)):
                    break
        except OSError as error:
            log.warning("%s: recording of lengths ends: %s", self.path, error)
        finally:
            self._end()
            os.close(self._file)

    def _write(self, data: bytes) -> bool:
        """Whether more may come. Whole lines at once: others may append to the file, too."""
        room_bytes = self._max_bytes - os.fstat(self._file).st_size
        if full := len(data) > room_bytes:
            data = data[: data.rfind(b"\n", 0, max(0, room_bytes)) + 1]
            log.warning("%s: recording of lengths ends: the file is full", self.path)
        while data:
            data = data[os.write(self._file, data) :]
        return not full


def _open(path: Path, setting: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = os.open(path, flags, 0o600)
    except OSError as error:
        raise ConfigError(setting, f"{path} cannot be written: {error.strerror}") from error
    found = os.fstat(file)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "is no file"
    elif stat.S_IMODE(found.st_mode) & 0o077:
        problem = "may be read by others, and would hold prompts: chmod 600"
    if problem:
        os.close(file)
        raise ConfigError(setting, f"{path} {problem}")
    return file
