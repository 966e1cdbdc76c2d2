"""Which of several NATS servers a client tries next, and after which wait."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from nats.aio.client import Server

from rondo.bus.delivery import backoff_s
from rondo.bus.url import parse_servers, userinfo_of, without_credentials


class ServerRing:
    """The servers of a cluster, in an order of the client's own, so that clients spread over them.

    Where a server tells of others, nats-py knows more than were configured; all get the same
    credentials, if those of the configured ones agree.

    Args:
        url: see `parse_servers`. name: the client's; it alone decides with which server it begins.

    Raises:
        ConfigError: the URL cannot be one.
    """

    def __init__(self, url: str, name: str) -> None:
        servers = parse_servers(url)
        self.url = ",".join(map(without_credentials, servers))
        self.address = ""
        """The server that is used or tried."""
        self.tls = any(server.startswith("tls:") for server in servers)
        """Whether an address asks for TLS; then all connections have it."""
        start = crc32(name.encode()) % len(servers)
        self._servers = servers[start:] + servers[:start]
        self._failures = 0

    @property
    def user(self) -> str:
        """The user, or nothing where there is none, or not one alone."""
        return self.credentials().get("user", "")

    def credentials(self) -> dict[str, str]:
        """Options of nats-py, for servers whose address comes without any."""
        [first, *others] = {userinfo_of(server) for server in self._servers}
        if first is None or others:
            return {}
        user, password = first
        return {"token": user} if password is None else {"user": user, "password": password}

    def first_tries(self) -> Iterator[tuple[list[str], float]]:
        """For ever: the servers, that to be tried first, and the wait should it fail."""
        count = len(self._servers)
        failures = 0
        while True:
            turn = failures % count
            servers = self._servers[turn:] + self._servers[:turn]
            self.address = without_credentials(servers[0])
            failures += 1
            yield list(servers), backoff_s(failures // count) if turn == count - 1 else 0.0

    def next(self, known: list[Server]) -> tuple[Server, float]:
        """Where a lost connection is tried next, and after what wait; `known` is nats-py's list."""
        rounds, turn = divmod(self._failures, len(known))
        server = known[turn]
        self.address = without_credentials(server.uri.geturl())
        self._failures += 1
        return server, backoff_s(rounds) if turn == 0 else 0.0

    def stable(self) -> None:
        """The connection has lived for a while: its loss is no failed try."""
        self._failures = 0
