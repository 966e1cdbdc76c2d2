"""TLS of the HTTP port: real handshakes, files that are wrong, and certificates that change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from rondo.errors import ConfigError
from rondo_gateway.security.reload import WatchedFiles
from rondo_gateway.security.tls import Tls, tls_of
from rondo_gateway.server import GatewayServer
from tests.support.gateway_server import Connection, connected, serving

GET = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


@dataclass
class Files:
    """An authority and what it issued, in two files."""

    folder: Path
    authority: trustme.CA

    @property
    def cert(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def issue(self) -> int:
        """A new certificate; its serial number."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        return x509.load_pem_x509_certificate(self.cert.read_bytes()).serial_number

    def tls(self) -> Tls:
        return Tls(self.cert, self.key)

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path, trustme.CA())
    made.issue()
    return made


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(scope["scheme"])(scope, receive, send)


async def connect(server: GatewayServer, context: ssl.SSLContext) -> Connection:
    return Connection(
        *await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=context, server_hostname="localhost"
        )
    )


async def serial_seen(server: GatewayServer, context: ssl.SSLContext) -> int:
    client = await connect(server, context)
    try:
        certificate = client.writer.get_extra_info("ssl_object").getpeercert()
        return int(certificate["serialNumber"], 16)
    finally:
        client.writer.close()
        await client.writer.wait_closed()


async def test_clients_that_trust_the_authority_are_answered(files: Files) -> None:
    async with serving(app, tls=files.tls()) as server:
        client = await connect(server, files.client())
        for _ in range(2):
            client.send(GET)
            assert (await client.answer())[::2] == (200, b"https")
        version = client.writer.get_extra_info("ssl_object").version()
        assert version in ("TLSv1.2", "TLSv1.3")
        client.writer.close()
        await client.writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(server, ssl.create_default_context())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_and_plain_http_are_not(files: Files) -> None:
    old = files.client()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(app, tls=files.tls()) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(server, old)
        async with connected(server) as plain:
            plain.send(GET)
            await plain.ended()


async def test_slow_heads_are_refused_there_too(files: Files) -> None:
    async with serving(app, tls=files.tls(), head_timeout_s=0.2) as server:
        client = await connect(server, files.client())
        client.send("GET / ")
        assert await client.refusal() == (408, "request_timeout")
        client.writer.close()


async def test_a_new_certificate_is_taken_and_a_bad_one_is_not(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rondo.gateway")
    tls, context = files.tls(), files.client()
    watched = WatchedFiles("certificate", tls.paths, tls.load)
    async with serving(app, tls=tls) as server:
        first = await serial_seen(server, context)
        second = files.issue()
        watched.check()
        assert await serial_seen(server, context) == second != first
        files.cert.write_text("nonsense")
        watched.check()
        assert await serial_seen(server, context) == second
        third = files.issue()
        watched.check()
        assert await serial_seen(server, context) == third
    said = [record.getMessage() for record in caplog.records]
    assert said == ["reloaded", "reload_failed", "reloaded"]


def test_files_that_are_wrong_are_named(files: Files) -> None:
    good_cert, good_key = files.cert.read_bytes(), files.key.read_bytes()

    def problem() -> tuple[str, str]:
        with pytest.raises(ConfigError) as caught:
            files.tls()
        assert caught.value.__cause__ is None
        return caught.value.setting, caught.value.problem

    files.cert.write_text("nonsense")
    setting, text = problem()
    assert (setting, "no certificate" in text) == ("RONDO_HTTP_TLS_CERT", True)
    files.cert.write_bytes(good_cert)
    files.key.write_text("nonsense")
    setting, text = problem()
    assert (setting, "no private key" in text) == ("RONDO_HTTP_TLS_KEY", True)
    files.issue()
    files.cert.write_bytes(good_cert)
    setting, text = problem()
    assert (setting, "is not the key of" in text) == ("RONDO_HTTP_TLS_KEY", True)
    key = serialization.load_pem_private_key(good_key, None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    setting, text = problem()
    assert (setting, "needs a password" in text) == ("RONDO_HTTP_TLS_KEY", True)
    files.key.unlink()
    setting, text = problem()
    assert (setting, "No such file" in text) == ("RONDO_HTTP_TLS_KEY", True)


def test_both_settings_or_none() -> None:
    assert tls_of("", "") is None
    for cert, key, missing in (("x", "", "KEY"), ("", "x", "CERT")):
        with pytest.raises(ConfigError) as caught:
            tls_of(cert, key)
        assert caught.value.setting == f"RONDO_HTTP_TLS_{missing}"
