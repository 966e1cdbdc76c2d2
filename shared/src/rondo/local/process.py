"""Child processes of a local cluster must not outlive it."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1

# Loaded here: between fork and exec, a child should do as little as possible.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Runs in a child between fork and exec (`preexec_fn`): the kernel sends it SIGTERM when its
    parent dies, however that happens. Does nothing where the kernel is not Linux.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
