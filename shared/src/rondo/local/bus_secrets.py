"""Users of the bus in files: passwords that stay, addresses of programs, nats-server's part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rondo.bus.permissions import authorization
from rondo.bus.url import parse_servers, userinfo_of
from rondo.errors import ConfigError

PASSWORD_BYTES = 32
CLIENT_PORT, ROUTE_PORT = 4222, 6222
#: The user of nats-servers among themselves.
CLUSTER = "cluster"


class BusSecrets:
    """The passwords of one bus, a file each in a folder; what exists is kept.

    They are random, 256 bits long, and lie in the configuration as they are: a hash would protect
    passwords that can be guessed, and whoever may read that file is the server that is told them
    anyway, at every connection.

    Args:
        owner: the uid that files are given to, where it is not our own.
    """

    def __init__(self, folder: Path, owner: int | None = None) -> None:
        self._folder = folder
        self._owner = owner

    def password(self, user: str) -> str:
        """The user's password; a new one where there is none."""
        file = self._folder / f"{user}.password"
        if not file.exists():
            self.write(file, secrets.token_urlsafe(PASSWORD_BYTES))
        return file.read_text()

    def url(self, user: str, hosts: Sequence[str], scheme: str = "nats") -> str:
        """NATS_URL of a user."""
        text = self.password(user)
        return ",".join(f"{scheme}://{user}:{text}@{address(host)}" for host in hosts)

    def users_conf(self, users: Iterable[str], *, demo: bool = False) -> str:
        """What nats-server has to include; see `rondo.bus.permissions`."""
        return authorization({user: self.password(user) for user in users}, demo=demo)

    def routes_conf(self, hosts: Sequence[str]) -> str:
        """How the servers of a cluster know each other, and nobody else gets among them."""
        text = self.password(CLUSTER)
        names = (urlsplit(f"//{host}").hostname for host in hosts)
        routes = ", ".join(f'"nats://{CLUSTER}:{text}@{name}:{ROUTE_PORT}"' for name in names)
        return (
            f"cluster {{\n  name: rondo\n  port: {ROUTE_PORT}\n"
            f'  authorization {{ user: {CLUSTER}, password: "{text}", timeout: 2 }}\n'
            f"  routes: [{routes}]\n}}\n"
        )

    def write(self, file: Path, text: str) -> None:
        """A file for its owner alone, never seen half written."""
        draft = file.with_name(f"{file.name}.draft")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text)
        if self._owner is not None:
            os.chown(draft, self._owner, self._owner)
        draft.replace(file)


def address(host: str) -> str:
    """`host` or `host:port`, with the port that NATS has by default.

    Raises:
        ConfigError: it is neither.
    """
    try:
        [server] = parse_servers(f"nats://{host}")
    except ConfigError as error:
        raise ConfigError("--host", error.problem) from error
    except ValueError as error:
        raise ConfigError("--host", f"{host!r} is more than one") from error
    if userinfo_of(server):
        raise ConfigError("--host", "must be without a user")
    return server.removeprefix("nats://")
