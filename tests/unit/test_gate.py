"""The gate: who may pass with which key, how often, and what the others are told."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry

from rondo.errors import ConfigError
from rondo.service.api_keys import ApiKey, changing_keys, digest, new_key
from rondo_gateway.errors import install_error_handlers
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.request_id import RequestId
from rondo_gateway.security.cors import add_cors
from rondo_gateway.security.front_door import FrontDoor
from rondo_gateway.security.gate import Door, Gate
from rondo_gateway.security.identity import Identity, identity_of
from rondo_gateway.security.key_ring import KeyRing
from rondo_gateway.security.reload import WatchedFiles
from rondo_gateway.security.spent import spend
from rondo_gateway.settings import GatewaySettings


@dataclass
class Office:
    """A key file, an application behind a gate that reads it, and a client."""

    path: Path
    door: Door = field(default_factory=Door)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    cost_tokens: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[Identity] = field(default_factory=list)

    def key(self, key_id: str, **fields: Any) -> str:
        """A new key in the file."""
        secret = new_key(key_id)
        with changing_keys(self.path, "X") as keys:
            keys.append(ApiKey(id=key_id, sha256=digest(secret), **fields))
        return secret

    def open(self, **changes: Any) -> httpx.AsyncClient:
        """A client of the application behind the gate."""
        keys = KeyRing(self.path) if self.path.exists() else None
        self.door = replace(self.door, keys=keys, **changes)
        self.registry = CollectorRegistry()
        transport = httpx.ASGITransport(app=self._app(), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost:8000")

    def _app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)

        async def answer(request: Request) -> dict[str, str]:
            spend(self.cost_tokens)
            return {"path": request.url.path}

        async def wait() -> None:
            self.begun.set()
            await self.go_on.wait()

        async def who(request: Request) -> str:
            one = identity_of(request.scope)
            assert one is not None
            self.seen.append(one)
            return one.key_id

        app.get("/wait")(wait)
        app.get("/who")(who)
        app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])(answer)
        app.add_middleware(Gate, door=self.door, metrics=GatewayMetrics(self.registry))
        if self.door.origins:
            add_cors(app, self.door.origins)
        app.add_middleware(RequestId)
        install_error_handlers(app)
        return app

    def refused(self, code: str) -> float:
        labels = {"code": code}
        return self.registry.get_sample_value("rondo_refused_requests_total", labels) or 0.0


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "keys.json")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def basic(key: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()}


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return dict(body["error"])


PATHS = {
    "/v1/chat/completions": "inference",
    "/v1/models": "inference",
    "/tokenize": "inference",
    "/openapi.json": "inference",
    "/whatever": "inference",
    "/administer": "inference",
    "/admin": "admin",
    "/admin/drain": "admin",
    "/console": "admin",
    "/console/app.js": "admin",
    "/metrics": "admin",
    "/healthz": None,
    "/readyz": None,
    "/health": None,
    "/healthy": "inference",
}


@pytest.mark.parametrize("path", PATHS)
async def test_every_path_needs_a_scope(office: Office, path: str) -> None:
    keys = {"inference": office.key("i"), "admin": office.key("a", scopes=("admin",))}
    needed = PATHS[path]
    async with office.open() as client:
        bare = await client.get(path)
        by_scope = {
            scope: (await client.get(path, headers=bearer(key))).status_code
            for scope, key in keys.items()
        }
    if needed is None:
        assert (bare.status_code, set(by_scope.values())) == (200, {200})
        return
    assert bare.status_code == 401
    assert error_of(bare)["code"] == "invalid_api_key"
    assert by_scope == {"inference": 403, "admin": 403} | {needed: 200}


async def test_a_key_with_both_scopes_may_do_both(office: Office) -> None:
    key = office.key("boss", scopes=("inference", "admin"))
    async with office.open() as client:
        for path in ("/v1/models", "/admin/x", "/metrics"):
            assert (await client.get(path, headers=bearer(key))).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer nonsense", "Basic !!", "Basic " + "QQ==", "Token KEY", "KEY"],
)
async def test_what_is_no_key_is_a_401(office: Office, header: str) -> None:
    key = office.key("ada")
    async with office.open() as client:
        headers = {"authorization": header.replace("KEY", key)} if header else {}
        response = await client.get("/v1/models", headers=headers)
        assert (response.status_code, error_of(response)["type"]) == (401, "invalid_request_error")
        assert response.headers.get_list("www-authenticate") == ['Bearer realm="rondo"']
        assert (await client.get("/v1/models", headers=bearer(key))).status_code == 200
    assert office.refused("invalid_api_key") == 1


async def test_an_expired_key_says_so(office: Office) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    key = office.key("ada", expires_at=past)
    async with office.open() as client:
        response = await client.get("/v1/models", headers=bearer(key))
    assert (response.status_code, error_of(response)["code"]) == (401, "expired_api_key")


async def test_handlers_see_who_asks_and_never_the_key(office: Office) -> None:
    key = office.key("ada")
    async with office.open() as client:
        assert (await client.get("/who", headers=bearer(key))).json() == "ada"
    assert office.seen == [Identity("ada", ("inference",))]
    assert key not in repr(office.seen)


async def test_limits_of_a_key_and_of_no_other(office: Office) -> None:
    busy = office.key("busy", requests_per_minute=2)
    other = office.key("other")
    async with office.open() as client:
        answers = [await client.get("/v1/x", headers=bearer(busy)) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert error_of(answers[2])["code"] == "rate_limit_exceeded"
        assert 25 <= int(answers[2].headers["retry-after"]) <= 30
        assert int(answers[2].headers["retry-after-ms"]) <= 30_000
        assert (await client.get("/v1/x", headers=bearer(other))).status_code == 200
    assert office.refused("rate_limit_exceeded") == 1


async def test_tokens_that_handlers_spend_are_charged(office: Office) -> None:
    key = office.key("ada", tokens_per_minute=100)
    office.cost_tokens = 300
    async with office.open() as client:
        answers = [await client.get("/v1/x", headers=bearer(key)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert error_of(answers[1])["code"] == "token_limit_exceeded"
    assert 100 <= int(answers[1].headers["retry-after"]) <= 121


async def test_requests_at_once(office: Office) -> None:
    key = office.key("ada", concurrent_requests=1)
    async with office.open() as client:
        waiting = asyncio.create_task(client.get("/wait", headers=bearer(key)))
        await office.begun.wait()
        second = await client.get("/v1/x", headers=bearer(key))
        assert (second.status_code, error_of(second)["code"]) == (429, "concurrency_limit_exceeded")
        office.go_on.set()
        assert (await waiting).status_code == 200
        assert (await client.get("/v1/x", headers=bearer(key))).status_code == 200


async def test_the_file_is_read_again_when_it_changes(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rondo.gateway")
    old = office.key("old", requests_per_minute=2)
    async with office.open() as client:
        keys = office.door.keys
        assert keys is not None
        watched = WatchedFiles("keys", [keys.path], keys.load)

        async def status(key: str) -> int:
            return (await client.get("/v1/x", headers=bearer(key))).status_code

        new = office.key("new")
        assert [await status(old), await status(new)] == [200, 401]
        watched.check()
        assert [await status(old), await status(new)] == [200, 200]
        assert await status(old) == 429  # what it had used is not forgotten

        good = office.path.read_text()
        office.path.write_text(f'{{"keys": "canary-{old}"}}')
        watched.check()
        assert await status(new) == 200
        office.path.unlink()
        watched.check()
        watched.check()
        assert await status(new) == 200

        office.path.write_text(good)
        with changing_keys(office.path, "X") as listed:
            del listed[0]
        watched.check()
        assert [await status(old), await status(new)] == [401, 200]
    said = [record.getMessage() for record in caplog.records]
    assert said == ["reloaded", "reload_failed", "reload_failed", "reloaded"]
    assert "canary" not in caplog.text
    assert not any("canary" in str(record.__dict__) for record in caplog.records)


# Browsers.

FOREIGN = [
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"sec-fetch-site": "same-site", "origin": "http://other.localhost"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
]
OWN = [{}, {"sec-fetch-site": "same-origin"}, {"origin": "http://localhost:8000"}]


async def test_a_browser_may_ask_its_user_for_the_key_of_the_console(office: Office) -> None:
    key = office.key("boss", scopes=("admin",))
    async with office.open() as client:
        asked = await client.get("/console")
        offers = asked.headers.get_list("www-authenticate")
        assert (asked.status_code, offers) == (401, ['Bearer realm="rondo"', 'Basic realm="rondo"'])
        page = await client.get("/console", headers=basic(key))
        assert page.status_code == 200
        for response in (asked, page):
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["x-frame-options"] == "DENY"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["cache-control"] == "no-store"
        assert "content-security-policy" not in (await client.get("/healthz")).headers


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_page_of_another_site_cannot_use_what_the_browser_knows(
    office: Office, headers: dict[str, str]
) -> None:
    key = office.key("boss", scopes=("admin", "inference"))
    async with office.open() as client:
        for path in ("/admin/drain", "/v1/chat/completions"):
            response = await client.post(path, headers={**basic(key), **headers})
            assert (response.status_code, error_of(response)["code"]) == (403, "foreign_origin")
            # A key that a script sends by itself is nobody else's.
            response = await client.post(path, headers={**bearer(key), **headers})
            assert response.status_code == 200


@pytest.mark.parametrize("headers", OWN)
async def test_its_own_pages_can(office: Office, headers: dict[str, str]) -> None:
    key = office.key("boss", scopes=("admin",))
    async with office.open() as client:
        response = await client.post("/admin/drain", headers={**basic(key), **headers})
        assert response.status_code == 200


async def test_without_keys_everybody_may_pass_but_pages_of_other_sites(office: Office) -> None:
    async with office.open() as client:
        for path in PATHS:
            assert (await client.get(path)).status_code == 200
        for headers in FOREIGN:
            assert (await client.post("/v1/x", headers=headers)).status_code == 403
        for headers in OWN:
            assert (await client.post("/v1/x", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("a.localhost", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("10.0.0.7", 403),
        ("[", 403),
    ],
)
async def test_names_that_another_site_gave_this_machine(
    office: Office, host: str, status: int
) -> None:
    async with office.open(loopback_only=True) as client:
        assert (await client.get("/v1/models", headers={"host": host})).status_code == status
    async with office.open(loopback_only=False) as client:
        assert (await client.get("/v1/models", headers={"host": host})).status_code == 200


async def test_pages_of_no_other_site_by_default(office: Office) -> None:
    origin = {"origin": "https://app.example"}
    ask = {**origin, "access-control-request-method": "POST"}
    key = office.key("ada")
    async with office.open() as client:
        preflight = await client.options("/v1/x", headers=ask)
        assert preflight.status_code == 401
        answer = await client.get("/v1/x", headers={**origin, **bearer(key)})
    assert not any(name.startswith("access-control") for name in {**preflight.headers})
    assert not any(name.startswith("access-control") for name in {**answer.headers})


async def test_pages_of_the_sites_that_are_named(office: Office) -> None:
    key = office.key("ada")
    async with office.open(origins=frozenset({"https://app.example"})) as client:
        for origin, allowed in {"https://app.example": True, "https://evil.example": False}.items():
            ask = {"origin": origin, "access-control-request-method": "POST"}
            ask["access-control-request-headers"] = "authorization, x-slo"
            preflight = await client.options("/v1/x", headers=ask)
            assert preflight.status_code == (200 if allowed else 400)
            refusal = await client.get("/v1/x", headers={"origin": origin})
            answer = await client.get("/v1/x", headers={"origin": origin, **bearer(key)})
            assert (refusal.status_code, answer.status_code) == (401, 200)
            for response in (preflight, refusal, answer):
                given = response.headers.get("access-control-allow-origin")
                assert given == (origin if allowed else None)
                assert "access-control-allow-credentials" not in response.headers


# Settings.


def settings(**fields: Any) -> GatewaySettings:
    return GatewaySettings(models="m", **fields)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "gateway.example"])
def test_a_port_that_others_reach_needs_keys_or_a_word(office: Office, host: str) -> None:
    with pytest.raises(ConfigError, match="others can reach") as caught:
        FrontDoor(settings(http_host=host))
    assert caught.value.setting == "RONDO_KEYS"
    assert not FrontDoor(settings(http_host=host, allow_no_keys=True)).door.loopback_only
    office.key("ada")
    door = FrontDoor(settings(http_host=host, keys=str(office.path))).door
    assert door.keys is not None


def test_a_shared_socket_counts_too() -> None:
    for host, private in {"127.0.0.1": True, "0.0.0.0": False}.items():
        with socket.socket() as listener:
            listener.bind((host, 0))
            given = settings(http_fd=listener.fileno())
            if private:
                assert FrontDoor(given).door.loopback_only
            else:
                with pytest.raises(ConfigError, match=r"reach 0\.0\.0\.0"):
                    FrontDoor(given)
            assert listener.getsockname()[0] == host  # still open


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"keys": "/nowhere/keys.json"}, "RONDO_KEYS"),
        ({"cors_origins": "app.example"}, "RONDO_CORS_ORIGINS"),
        ({"cors_origins": "https://app.example/"}, "RONDO_CORS_ORIGINS"),
        ({"http_tls_cert": "/x"}, "RONDO_HTTP_TLS_KEY"),
        ({"http_tls_key": "/x"}, "RONDO_HTTP_TLS_CERT"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FrontDoor(settings(**fields))
    assert caught.value.setting == name


def test_origins_are_read() -> None:
    origins = FrontDoor(settings(cors_origins="https://a.example, http://b:81")).door.origins
    assert origins == {"https://a.example", "http://b:81"}
