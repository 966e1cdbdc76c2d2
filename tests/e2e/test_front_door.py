"""A cluster behind keys: who is let in, what crowds and errors do, and what the logs never say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rondo.service.api_keys import new_key
from tests.support.cluster import RONDO, Cluster, clean_env, eventually, running

#: In every prompt, wrong key and path that these tests send; nowhere in a log.
CANARY = "canary4711"
MAX_BODY_BYTES = 200_000
NUM_IDLE = 10_000
#: Of this process: files that are no idle connections.
OWN_FILES = 500


@dataclass
class Guarded:
    """The cluster, and its keys."""

    cluster: Cluster
    keys_file: Path
    user: str
    boss: str

    def rondo(self, *args: str) -> str:
        """What `rondo keys` prints."""
        command = [RONDO, "keys", *args, "--file", str(self.keys_file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return result.stdout.strip()

    def client(self, key: str) -> httpx.Client:
        """A client with a key."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.cluster.url, headers=headers, timeout=60)

    def logs(self) -> str:
        """What all programs have logged so far."""
        return "".join(path.read_text() for path in self.cluster.run_dir.glob("*.log"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, fast_profile: Path) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    made = Guarded(None, folder / "keys.json", "", "")  # type: ignore[arg-type]
    made.user = made.rondo("new", "user")
    made.boss = made.rondo("new", "boss", "--scope", "admin")
    options = ("--engine", "emulated", "--workers", "2", "--profile", str(fast_profile))
    env = {
        "RONDO_KEYS": str(made.keys_file),
        "RONDO_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "RONDO_IDLE_TIMEOUT_S": "600",  # opening ten thousand takes a slow machine minutes
    }
    with running(folder / "run", *options, **env) as cluster:
        made.cluster = cluster
        yield made


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": "rondo-tiny",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        **fields,
    }


def test_an_open_door_is_no_accident(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(CANARY)
    wrong: list[tuple[str, dict[str, str]]] = [
        ("RONDO_KEYS: is not set, but others can reach 0.0.0.0", {"RONDO_HTTP_HOST": "0.0.0.0"}),
        ("RONDO_KEYS: the key file is damaged", {"RONDO_KEYS": str(tmp_path / "bad.json")}),
        ("RONDO_HTTP_TLS_KEY: is not set", {"RONDO_HTTP_TLS_CERT": str(tmp_path / "bad.json")}),
    ]
    for said, env in wrong:
        result = subprocess.run(
            [sys.executable, "-m", "rondo_gateway"],
            env=clean_env(RONDO_MODELS=str(tmp_path), **env),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (result.returncode, result.stdout) == (2, "")
        assert said in result.stderr
        assert CANARY not in result.stderr


def test_openais_client_with_a_key_and_without(guarded: Guarded) -> None:
    def ask(key: str) -> str | None:
        url = f"{guarded.cluster.url}/v1"
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            answer = client.chat.completions.create(**chat("hello"))
            text: str | None = answer.choices[0].message.content
            return text

    assert ask(guarded.user)
    with pytest.raises(openai.AuthenticationError) as none:
        ask(new_key("nobody"))
    assert none.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError) as admin:
        ask(guarded.boss)
    assert admin.value.code == "insufficient_scope"


def test_metrics_are_for_admins_and_health_is_for_everybody(guarded: Guarded) -> None:
    statuses = {}
    for name, key in {"": "", "user": guarded.user, "boss": guarded.boss}.items():
        with guarded.client(key) as client:
            paths = ("/metrics", "/healthz", "/readyz", "/console/", "/v1/models")
            statuses[name] = [client.get(path).status_code for path in paths]
    assert statuses[""] == [401, 200, 200, 401, 401]
    assert statuses["user"] == [403, 200, 200, 403, 200]
    assert statuses["boss"] == [200, 200, 200, 200, 403]


def test_a_key_is_limited_and_revoked_while_the_cluster_runs(guarded: Guarded) -> None:
    key = guarded.rondo("new", "short", "--tokens-per-minute", "20")
    with guarded.client(key) as client:

        def status(**fields: Any) -> int:
            body = chat("hello", ignore_eos=True, **fields)
            return client.post("/v1/chat/completions", json=body).status_code

        assert eventually(lambda: status(stream=True) == 200, "the new key is known")
        # The stream's tokens, and those of its prompt, are more than a minute's worth.
        assert eventually(lambda: status() == 429, "what it took is charged")
        guarded.rondo("revoke", "short")
        eventually(lambda: status() == 401, "the key is known no more")


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def num_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_ten_thousand_idle_connections(guarded: Guarded) -> None:
    """As many as this machine allows: half of them silent, half after a request."""
    raise_file_limit()
    count = min(NUM_IDLE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES)
    host, _, port = guarded.cluster.url.removeprefix("http://").partition(":")
    health = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    writers: list[asyncio.StreamWriter] = []

    async def connect(index: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        if index % 2:
            writer.write(health)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")

    try:
        for start in range(0, count, 250):
            await asyncio.gather(*(connect(start + index) for index in range(250)))
        async with httpx.AsyncClient(timeout=60) as client:
            headers = {"authorization": f"Bearer {guarded.user}"}
            for _ in range(5):
                begun_s = time.monotonic()
                answer = await client.post(
                    f"{guarded.cluster.url}/v1/chat/completions",
                    json=chat("hello"),
                    headers=headers,
                )
                assert answer.status_code == 200
                assert time.monotonic() - begun_s < 30
        assert num_files(guarded.cluster.pid("rondo_gateway")) > count
        assert not any(writer.transport.is_closing() for writer in writers)
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def error_paths(guarded: Guarded) -> dict[str, tuple[int, str]]:
    """Everything that goes wrong with the canary in it: name -> status and answer."""
    bad = f"{CANARY}-{'x' * 40}"
    requests: dict[str, tuple[str, str, dict[str, Any]]] = {
        "wrong key": ("rondo-nobody-" + CANARY, "/v1/models", {}),
        "unknown path": (guarded.user, f"/v1/{CANARY}", {}),
        "unknown model": (guarded.user, f"/v1/models/{CANARY}", {}),
        "no JSON": (guarded.user, "/v1/chat/completions", {"content": bad}),
        "broken JSON": (guarded.user, "/v1/chat/completions", {"content": f'{{"{bad}": '}),
        "wrong type": (guarded.user, "/v1/chat/completions", {"json": chat(bad, temperature=bad)}),
        "wrong role": (
            guarded.user,
            "/v1/chat/completions",
            {"json": chat(bad, messages=[{"role": bad, "content": bad}])},
        ),
        "too long": (guarded.user, "/v1/chat/completions", {"json": chat(f"{bad} " * 3000)}),
        "too large": (guarded.user, "/v1/chat/completions", {"json": chat(bad * 10_000)}),
        "bad grammar": (
            guarded.user,
            "/v1/chat/completions",
            {"json": chat(bad, guided_regex="(" + bad)},
        ),
        "bad schema": (
            guarded.user,
            "/v1/chat/completions",
            {"json": chat(bad, guided_json={"type": bad})},
        ),
        "no logprobs": (
            guarded.user,
            "/v1/completions",
            {"json": {"model": "rondo-tiny", "prompt": bad, "logprobs": 3, "echo": True}},
        ),
        "unknown response": (
            guarded.user,
            "/v1/responses",
            {"json": {"model": "rondo-tiny", "input": bad, "previous_response_id": bad}},
        ),
        "wrong token": (
            guarded.user,
            "/detokenize",
            {"json": {"tokens": [10**9], "model": "rondo-tiny"}},
        ),
        "bad header": (
            guarded.user,
            "/v1/chat/completions",
            {"headers": {"x-slo": bad}, "json": chat(bad)},
        ),
        "admin": (guarded.user, f"/admin/{CANARY}", {}),
    }
    answers = {}
    for name, (key, path, sent) in requests.items():
        with guarded.client(key) as client:
            method = "POST" if {"json", "content"} & set(sent) else "GET"
            response = client.request(method, path, **sent)
            answers[name] = response.status_code, response.text
    return answers


async def cut_off(guarded: Guarded) -> None:
    """A stream whose client leaves, and heads and bodies that are none."""
    host, _, port = guarded.cluster.url.removeprefix("http://").partition(":")
    body = json.dumps(chat(CANARY, stream=True, max_tokens=200, ignore_eos=True)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer "
        f"{guarded.user}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    for data in (head + body, head + body[:10], f"{CANARY}\r\n\r\n".encode(), head[:-10] + b"\x01"):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        await asyncio.sleep(0.2)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def lose_a_worker(guarded: Guarded) -> None:
    """A worker dies with a prompt, and its answer goes on elsewhere."""
    cluster, body = guarded.cluster, chat(CANARY, stream=True, ignore_eos=True)
    del body["max_tokens"]  # as long as there is room
    with (
        guarded.client(guarded.user) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        [busy] = [
            index for index in range(2) if cluster.metric(f"worker-{index}", "rondo_requests") > 0
        ]
        os.kill(cluster.pid_of(f"rondo-tiny-{busy}"), signal.SIGKILL)
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    eventually(lambda: "resume" in guarded.logs(), "it went on elsewhere")


async def test_logs_and_errors_have_no_prompts_keys_or_paths(guarded: Guarded) -> None:
    answers = await asyncio.to_thread(error_paths, guarded)
    assert {name: status for name, (status, _) in answers.items() if status < 400} == {}
    assert {status for status, _ in answers.values()} >= {400, 401, 403, 404, 413}
    for name, (status, text) in answers.items():
        assert status < 500, name
        assert guarded.user not in text, name
        assert str(guarded.cluster.run_dir.parent) not in text, name
        assert "/site-packages" not in text, name
        assert ".py" not in text, name
        if "key" in name or "JSON" in name or "too" in name:
            assert CANARY not in text, name
    await cut_off(guarded)
    await asyncio.to_thread(lose_a_worker, guarded)
    said = guarded.logs()
    assert "ready" in said
    for secret in (CANARY, guarded.user, guarded.boss, guarded.user.rpartition("-")[2]):
        assert secret not in said
    assert "Traceback" not in said
