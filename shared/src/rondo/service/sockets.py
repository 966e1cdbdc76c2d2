"""The socket that a program listens on, bound before anything else starts."""

from __future__ import annotations

import socket

from rondo.errors import ConfigError


def bound(host: str, port: int, setting: str, backlog: int | None = None) -> socket.socket:
    """A bound TCP socket, so that its port is known, and taken; port 0 takes a free one.

    Args:
        setting: where the port comes from, as the user wrote it.
        backlog: connections that may wait; None: it does not listen yet.

    Raises:
        ConfigError: the port is taken or the address is not ours; names the setting.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        if backlog is not None:
            listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise ConfigError(setting, f"cannot listen on {host}:{port}: {error}") from error
    return listener
