"""NATS_URL: what it may say, and what of it may be logged."""

from __future__ import annotations

import pytest

from rondo.bus.url import parse_servers, without_credentials
from rondo.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nats://127.0.0.1:4222", ("nats://127.0.0.1:4222",)),
        ("nats", ("nats://nats:4222",)),
        ("a:1, tls://b ,", ("nats://a:1", "tls://b:4222")),
        ("nats://u:p@h", ("nats://u:p@h:4222",)),
        ("nats://token@h:5/", ("nats://token@h:5",)),
        ("nats://[::1]:6", ("nats://[::1]:6",)),
    ],
)
def test_addresses(text: str, servers: tuple[str, ...]) -> None:
    assert parse_servers(text) == servers


@pytest.mark.parametrize(
    "text",
    [
        "", " , ", "http://h", "nats://", "nats://:4222", "nats://h:port", "nats://h:99999",
        "nats://h:0", "nats://h/path", "nats://h?x=1", "nats://h h",
    ],
)  # fmt: skip
def test_wrong_addresses_are_named(text: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_servers(text)
    assert wrong.value.setting == "NATS_URL"


def test_credentials_are_not_shown() -> None:
    assert without_credentials("nats://user:secret@h:1") == "nats://h:1"
    with pytest.raises(ConfigError) as wrong:
        parse_servers("nats://user:secret@h:99999")
    assert "secret" not in str(wrong.value)
