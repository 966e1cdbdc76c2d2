"""TLS to NATS: who is trusted, who is refused, and that nothing is said without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from rondo.bus.nats import NatsBus
from rondo.bus.tls import CA, CERT, KEY, TlsFiles
from rondo.errors import ConfigError
from tests.support.buses import SUBJECT, frame, seqs
from tests.support.collect import Collector, eventually
from tests.support.nats import ServerUnderTest

PASSWORD = "very-secret"


class Papers:
    """An authority, and what it has signed, as files."""

    def __init__(self, folder: Path, *, name: str = "localhost") -> None:
        folder.mkdir()
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)
        own = self._authority.issue_cert(name)
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        own.cert_chain_pems[0].write_to_path(self.cert)
        own.private_key_pem.write_to_path(self.key)
        client = self._authority.issue_cert("client")
        self.client = folder / "client.pem"
        client.private_key_and_cert_chain_pem.write_to_path(self.client)

    def config(self, *, verify: bool = False) -> str:
        """For nats-server; with `verify` clients need a certificate, too."""
        more = f'ca_file: "{self.ca}", verify: true' if verify else ""
        return f'tls {{ cert_file: "{self.cert}", key_file: "{self.key}", timeout: 5, {more} }}'


@asynccontextmanager
async def serving(folder: Path, config: str) -> AsyncIterator[ServerUnderTest]:
    server = ServerUnderTest(folder / "nats", config=config)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def secured(server: ServerUnderTest) -> str:
    """Its address for who wants TLS."""
    return server.url.replace("nats://127.0.0.1", "tls://localhost")


async def refused(url: str, tls: TlsFiles, caplog: pytest.LogCaptureFixture) -> str:
    """What is logged of a connection that does not come about."""
    bus = NatsBus(url, name="b", tls=tls)
    trying = asyncio.create_task(bus.connect())
    with caplog.at_level(logging.WARNING, "rondo.bus"):
        await eventually(lambda: "bus_connect_failed" in caplog.text, "it says why")
    assert not bus.connected
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    await bus.close()
    return caplog.text


async def test_messages_go_both_ways_and_a_restart_is_survived(tmp_path: Path) -> None:
    papers = Papers(tmp_path / "papers")
    async with serving(tmp_path, papers.config()) as server:
        bus = NatsBus(secured(server), name="b", tls=TlsFiles(ca=str(papers.ca)))
        await bus.connect()
        heard: Collector[object] = Collector()
        await bus.subscribe(SUBJECT, heard)
        await bus.publish(SUBJECT, frame(1))
        await heard.until(lambda items: len(items) == 1)
        await (await bus.key_value("rondo_instances")).put("w", frame(2))
        await server.restart()
        await eventually(lambda: bus.stats.reconnects == 1, "it is back")
        await bus.publish(SUBJECT, frame(3))
        await heard.until(lambda items: seqs(items) == [1, 3])  # type: ignore[arg-type]
        await bus.close()


async def test_an_authority_alone_asks_for_tls(tmp_path: Path) -> None:
    papers = Papers(tmp_path / "papers")
    async with serving(tmp_path, papers.config()) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        bus = NatsBus(url, name="b", tls=TlsFiles(ca=str(papers.ca)))
        await bus.connect()
        await bus.close()


async def test_a_server_that_nobody_vouches_for_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    papers, others = Papers(tmp_path / "papers"), Papers(tmp_path / "others")
    async with serving(tmp_path, papers.config()) as server:
        text = await refused(secured(server), TlsFiles(ca=str(others.ca)), caplog)
        assert "certificate verify failed" in text
        caplog.clear()
        text = await refused(secured(server), TlsFiles(), caplog)
        assert "certificate verify failed" in text


async def test_a_server_of_another_name_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    papers = Papers(tmp_path / "papers", name="other.example")
    async with serving(tmp_path, papers.config()) as server:
        text = await refused(secured(server), TlsFiles(ca=str(papers.ca)), caplog)
    assert "Hostname mismatch" in text


async def test_a_client_shows_its_certificate_where_it_must(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    papers = Papers(tmp_path / "papers")
    async with serving(tmp_path, papers.config(verify=True)) as server:
        await refused(secured(server), TlsFiles(ca=str(papers.ca)), caplog)
        files = TlsFiles(ca=str(papers.ca), cert=str(papers.client))
        bus = NatsBus(secured(server), name="b", tls=files)
        async with asyncio.timeout(10):
            await bus.connect()
        await bus.close()


async def test_no_password_goes_to_who_speaks_no_tls(caplog: pytest.LogCaptureFixture) -> None:
    """As somebody in between could: it greets like a server, and leaves out `tls_required`."""
    said = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","auth_required":true,')
        writer.write(b'"max_payload":1048576,"headers":true}\r\n')
        said.extend(await reader.read(65536))
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = await refused(f"tls://user:{PASSWORD}@127.0.0.1:{port}", TlsFiles(), caplog)
    server.close()
    await server.wait_closed()
    assert "no TLS" in text
    assert PASSWORD not in text
    assert said == b""


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    papers, others = Papers(tmp_path / "papers"), Papers(tmp_path / "others")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate, but a secret")
    missing = str(tmp_path / "missing.pem")
    wrong = [
        (CA, "No such file", TlsFiles(ca=missing)),
        (CA, "no certificates", TlsFiles(ca=str(nonsense))),
        (CA, "Is a directory", TlsFiles(ca=str(tmp_path))),
        (CERT, "No such file", TlsFiles(cert=missing)),
        (CERT, "unencrypted key", TlsFiles(cert=str(papers.cert))),
        (CERT, "unencrypted key", TlsFiles(cert=str(papers.cert), key=str(others.key))),
        (CERT, "unencrypted key", TlsFiles(cert=str(nonsense), key=str(papers.key))),
        (KEY, "No such file", TlsFiles(cert=str(papers.cert), key=missing)),
        (KEY, f"needs {CERT}", TlsFiles(key=str(papers.key))),
    ]
    for setting, problem, files in wrong:
        with pytest.raises(ConfigError, match=problem) as error:
            NatsBus("tls://localhost", name="b", tls=files)
        assert error.value.setting == setting
        assert "but a secret" not in str(error.value)
    NatsBus("tls://localhost", name="b", tls=TlsFiles(str(papers.ca), str(papers.client)))
    files = TlsFiles(str(papers.ca), str(papers.cert), str(papers.key))
    assert TlsFiles.from_env({CA: files.ca, CERT: files.cert, KEY: files.key}) == files
    NatsBus("tls://localhost", name="b", tls=files)
