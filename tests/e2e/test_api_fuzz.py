"""Whatever is sent to the routes of the served OpenAPI document, no answer is a server's error.

Schemathesis makes requests from the document, valid ones and broken ones, and Hypothesis shrinks
what fails. A hundred or so in a test; RONDO_FUZZ_CASES says how many (`make fuzz`: 10,000).
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from tests.support.cluster import Cluster, running

CASES = int(os.environ.get("RONDO_FUZZ_CASES", "150"))
SEED = int(os.environ.get("RONDO_FUZZ_SEED", "1"))
#: Streams that never end, and what is meant to hurt the cluster.
LEFT_OUT = ("/console/api/stream", "/console/api/fault")
#: So many times as many cases as for a route without a body.
BODY_SHARE = 6
#: Bodies that are answered, to try single fields of generated ones in.
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
    "/v1/completions": {"prompt": "hi", "max_tokens": 4},
    "/v1/responses": {"input": "hi", "max_output_tokens": 4},
    "/v1/embeddings": {"input": "hi"},
}
MAX_TURNS = 20
TIMEOUT_S = 60.0
INSTANT = {
    "name": "instant",
    "source": "made up: steps that take next to no time",
    "prefill_floor_ms": [0.1, 0.0],
    "prefill_line_ms": [0.1, 0.0],
    "prefill_attn_ms": [0.0, 0.0, 0.0],
    "decode_ms": [0.05, 0.0, 0.0],
    "block_size": 16,
    "num_blocks": 4096,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("fuzz")
    profile = folder / "instant.json"
    profile.write_text(json.dumps(INSTANT))
    options = ("--engine", "emulated", "--workers", "2", "--profile", str(profile))
    with running(folder / "run", *options) as cluster:
        yield cluster


class Fuzz:
    """Sends requests, and judges the answers."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        self._model = self._client.get("/v1/models").json()["data"][0]["id"]
        self.statuses: Counter[int] = Counter()

    def close(self) -> None:
        self._client.close()

    def send(self, case: Case[Any], help_: int | None) -> None:
        """One case, as it is or with some help, so that more of them get beyond the checks."""
        if help_ is not None and isinstance(case.body, dict) and "model" in case.body:
            dice = random.Random(help_)
            fields = sorted(case.body)
            kept = dice.sample(fields, min(len(fields), dice.randint(0, 3)))
            good = {"model": self._model, **GOOD.get(case.path, {})}
            case.body = {**good, **{name: case.body[name] for name in kept}}
        sent = case.as_transport_kwargs(base_url=str(self._client.base_url))
        request = self._request(sent)
        if request is None:
            return
        response = self._client.send(request)
        self.statuses[response.status_code] += 1
        assert response.status_code < 500, (sent, response.text)
        assert "Traceback" not in response.text
        kind = response.headers.get("content-type", "")
        if response.status_code >= 400:
            assert set(response.json()) == {"error"}, (sent, response.text)
        elif kind.startswith("text/event-stream"):
            assert '"code":"internal_error"' not in response.text, (sent, response.text)

    def _request(self, sent: dict[str, Any]) -> httpx.Request | None:
        """The request, where HTTP can carry it at all."""
        body = sent.get("data") if "json" not in sent else None
        try:
            return self._client.build_request(
                sent["method"],
                sent["url"],
                headers={name: str(value) for name, value in (sent.get("headers") or {}).items()},
                params=sent.get("params"),
                cookies=None,
                content=body if isinstance(body, (bytes, str)) else None,
                json=sent.get("json"),
                files=sent.get("files"),
            )
        except (httpx.InvalidURL, UnicodeEncodeError, ValueError, TypeError):
            return None


def sweep(fuzz: Fuzz, operation: Any, num_examples: int, name: str) -> None:
    """Sends cases of one route, always the same ones for a name."""

    @seed(name)
    @settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(), st.none() | st.integers(0, 2**32))
    def send(case: Case[Any], help_: int | None) -> None:
        fuzz.send(case, help_)

    send()


def test_no_request_makes_a_server_error(cluster: Cluster) -> None:
    schema = schemathesis.openapi.from_url(f"{cluster.url}/openapi.json")
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    operations = [
        result.ok()
        for result in schema.get_all_operations()
        if isinstance(result, Ok) and result.ok().path not in LEFT_OUT
    ]
    assert len(operations) > 10
    shares = [BODY_SHARE if operation.body else 1 for operation in operations]
    fuzz = Fuzz(cluster.url)
    for turn in range(MAX_TURNS):  # some routes have few cases, and some cases are no HTTP
        missing = CASES - sum(fuzz.statuses.values())
        if missing <= 0:
            break
        for operation, share in zip(operations, shares, strict=True):
            sweep(fuzz, operation, max(2, missing * share // sum(shares)), f"{SEED} {turn}")
    fuzz.close()
    print(f"{sum(fuzz.statuses.values())} requests: {dict(sorted(fuzz.statuses.items()))}")
    assert sum(fuzz.statuses.values()) >= CASES
    assert {200, 400, 404} <= set(fuzz.statuses)
    assert cluster.metric("gateway", "rondo_requests_total") > 0
    log = Path(cluster.run_dir / "gateway.log").read_text()
    assert "request_failed" not in log
    assert " ERROR " not in log
