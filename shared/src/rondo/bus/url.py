"""NATS addresses: read from a setting, and written to logs without credentials."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from rondo.errors import ConfigError

SETTING = "NATS_URL"
DEFAULT_PORT = 4222

_SCHEMES = ("nats", "tls")


def parse_servers(text: str) -> tuple[str, ...]:
    """The servers of a comma-separated list, each as scheme://[user[:password]@]host:port.

    Raises:
        ConfigError: it names no server, or an address cannot be one of NATS.
    """
    servers = tuple(_parse(part.strip()) for part in text.split(",") if part.strip())
    if not servers:
        raise ConfigError(SETTING, "names no server, e.g. nats://127.0.0.1:4222")
    return servers


def without_credentials(server: str) -> str:
    """An address as `parse_servers` gives it, fit for a log."""
    url = urlsplit(server)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def userinfo_of(server: str) -> tuple[str, str | None] | None:
    """User and password of an address as `parse_servers` gives it; a token is a user alone."""
    url = urlsplit(server)
    return (url.username, url.password) if url.username else None


def _parse(text: str) -> str:
    url = urlsplit(text if "://" in text else f"nats://{text}")
    # A wrong address is shown without what may be a password.
    shown = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    if url.scheme not in _SCHEMES:
        raise ConfigError(SETTING, f"{shown}: the scheme must be one of {', '.join(_SCHEMES)}")
    if url.path.strip("/") or url.query or url.fragment:
        raise ConfigError(SETTING, f"{shown}: nothing may follow host and port")
    if not url.hostname or any(c.isspace() for c in url.netloc):
        raise ConfigError(SETTING, f"{shown}: names no host")
    return f"{url.scheme}://{_userinfo(url)}{_host(url)}:{_port(url, shown)}"


def _userinfo(url: SplitResult) -> str:
    user, at, _ = url.netloc.rpartition("@")
    return user + at


def _host(url: SplitResult) -> str:
    host = url.hostname or ""
    return f"[{host}]" if ":" in host else host


def _port(url: SplitResult, shown: str) -> int:
    try:
        port = url.port
    except ValueError as error:
        raise ConfigError(SETTING, f"{shown}: the port must be a number up to 65535") from error
    if port == 0:
        raise ConfigError(SETTING, f"{shown}: the port must not be 0")
    return port or DEFAULT_PORT
