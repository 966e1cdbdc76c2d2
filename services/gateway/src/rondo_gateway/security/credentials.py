"""The key that a request carries, and whether its sender meant to send it.

A browser sends a password that its user once typed (Basic) with every request to the same place,
also with those that a page of another site makes it send. So such a request must not change
anything, nor must one that needs no key at all because none are in use.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers

#: Methods that change nothing.
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was presented as a key; `ambient` if a browser may have added it by itself."""

    key: str
    ambient: bool


def credentials_of(headers: Headers) -> Credentials | None:
    """The key of an Authorization header; of Basic it is the password. None: there is none."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    match kind.lower():
        case "bearer" if value:
            return Credentials(value, ambient=False)
        case "basic":
            try:
                pair = base64.b64decode(value, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return None
            return Credentials(pair.partition(":")[2], ambient=True)
    return None


def is_foreign(method: str, headers: Headers, origins: frozenset[str]) -> bool:
    """Whether a page of another site sent this, and it is to change something.

    Args:
        origins: of other sites that may.
    """
    origin = headers.get("origin", "")
    if method in _SAFE or origin in origins or "*" in origins:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    return bool(origin) and urlsplit(origin).netloc != headers.get("host", "")


def is_loopback(host: str) -> bool:
    """Whether an address, or the name in a Host header, with a port or without, is this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
