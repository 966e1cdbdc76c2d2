"""Which server of a cluster a client tries: its own first, all in turn, and not too often."""

from __future__ import annotations

from itertools import islice
from urllib.parse import urlparse

from nats.aio.client import Server

from rondo.bus.nats_servers import ServerRing

THREE = "nats://a:1,nats://b:2,nats://c:3"
ADDRESSES = THREE.split(",")


def known(*addresses: str) -> list[Server]:
    return [Server(uri=urlparse(address), reconnects=0) for address in addresses]


def first_of(name: str) -> str:
    servers, _ = next(ServerRing(THREE, name).first_tries())
    return servers[0]


def test_clients_spread_and_each_keeps_to_its_own() -> None:
    firsts = [first_of(f"w{number}") for number in range(300)]
    assert firsts == [first_of(f"w{number}") for number in range(300)]
    for address in ADDRESSES:
        assert 60 < firsts.count(address) < 140


def test_all_are_tried_before_it_waits() -> None:
    ring = ServerRing(THREE, "test")
    tries = list(islice(ring.first_tries(), 9))
    for start in (0, 3, 6):
        assert sorted(servers[0] for servers, _ in tries[start : start + 3]) == ADDRESSES
    assert [wait_s for _, wait_s in tries] == [0, 0, 0.1, 0, 0, 0.2, 0, 0, 0.4]
    assert all(sorted(servers) == ADDRESSES for servers, _ in tries)
    assert ring.address == tries[-1][0][0]


def test_after_a_loss_all_are_tried_at_once_and_then_with_waits() -> None:
    ring = ServerRing(THREE, "test")
    servers = known("nats://u:p@b:2", "nats://c:3", "nats://a:1")
    picked = [ring.next(servers) for _ in range(6)]
    assert [server for server, _ in picked] == servers * 2
    assert [wait_s for _, wait_s in picked] == [0, 0, 0, 0.1, 0, 0]
    ring.stable()
    assert ring.next(servers) == (servers[0], 0.0)
    assert ring.address == "nats://b:2", "no password in what is shown"


def test_credentials_are_for_all_if_all_have_the_same() -> None:
    def credentials(url: str) -> dict[str, str]:
        return ServerRing(url, "test").credentials()

    assert credentials("nats://u:p@a:1,nats://u:p@b:2") == {"user": "u", "password": "p"}
    assert credentials("nats://token@a:1") == {"token": "token"}
    assert credentials("nats://u:p@a:1,nats://other:p@b:2") == {}
    assert credentials(THREE) == {}
