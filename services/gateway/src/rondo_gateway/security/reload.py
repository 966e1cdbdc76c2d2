"""Files that are read again when they change, while the program goes on.

A file is looked at once a second, which needs no service of the kernel's and sees also what
editors, configuration tools and mounted secrets do: replace the file, or a link to its folder.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rondo.errors import ConfigError
from rondo.service import logs

log = logging.getLogger("rondo.gateway")

POLL_S = 1.0
_Stamp = tuple[tuple[int, int, int], ...]


class WatchedFiles:
    """Calls `load` when one of `paths` has changed; a failure leaves what was loaded before.

    Args:
        name: for the log.
        load: raises ConfigError whose text may go into the log.
    """

    def __init__(self, name: str, paths: Sequence[Path], load: Callable[[], None]) -> None:
        self._name = name
        self._paths = tuple(paths)
        self._load = load
        self._stamp = self._look()

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self.check()

    def check(self) -> None:
        """Looks once."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._load()
        except ConfigError as error:
            logs.warning(log, "reload_failed", what=self._name, problem=str(error))
        else:
            logs.info(log, "reloaded", what=self._name)

    def _look(self) -> _Stamp | None:
        """What tells one state of the files from another; None: they are not all there."""
        try:
            stats = [path.stat() for path in self._paths]
        except OSError:
            return None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
