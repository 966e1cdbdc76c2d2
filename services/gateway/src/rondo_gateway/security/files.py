"""How many files a process may have open: every connection is one."""

from __future__ import annotations

import resource

#: For the bus, logs, models and whatever else is no connection of a client.
OWN_FILES = 256


def allow_many_files() -> int:
    """Raises the soft limit to the hard one; how many connections there is room for then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(1, hard - OWN_FILES) if hard != resource.RLIM_INFINITY else 2**31
