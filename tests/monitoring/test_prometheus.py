"""A real Prometheus scrapes a real cluster under load: what is asked of it is there."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.dashboards import BOARDS, Query, metrics_in, panels, queries
from tests.monitoring.prometheus import ALERTS, CONFIG, ROOT, Prometheus, ports, scraping, tool
from tests.support.cluster import FAST_PROFILE, Cluster, eventually, running

CLIENTS = 6
PATIENCE_S = 60.0


@dataclass
class Watched:
    cluster: Cluster
    prometheus: Prometheus


@contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Some clients, over and over."""
    over = threading.Event()

    def client(number: int) -> None:
        body = {
            "model": "rondo-tiny",
            "prompt": f"The quick brown fox number {number} " * 20,
            "max_tokens": 60,
            "ignore_eos": True,
        }
        with httpx.Client(timeout=60) as http:
            while not over.is_set():
                http.post(f"{cluster.url}/v1/completions", json=body).raise_for_status()

    clients = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in clients:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in clients:
            thread.join(60)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    profile = folder / "fast.json"
    profile.write_text(json.dumps(FAST_PROFILE))
    options = ("--engine", "emulated", "--workers", "3", "--profile", str(profile))
    with (
        running(folder / "run", *options, RONDO_VLLM_METRICS="true") as cluster,
        load(cluster),
        scraping(cluster, folder) as prometheus,
    ):
        yield Watched(cluster, prometheus)


def names(prometheus: Prometheus) -> set[str]:
    return set(prometheus.get("label/__name__/values"))


@pytest.mark.parametrize("query", queries(), ids=str)
def test_every_query_of_the_dashboards_returns_data(watched: Watched, query: Query) -> None:
    eventually(lambda: watched.prometheus.values(query.filled), query.filled, PATIENCE_S)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_variables_of_the_dashboards_have_values(watched: Watched, name: str) -> None:
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found, variable
            series, label = found.groups()
            values = watched.prometheus.get(f"label/{label}/values", **{"match[]": series})
            assert values, variable["name"]


def test_all_programs_are_scraped(watched: Watched) -> None:
    expected = {"gateway": 1.0, "coordinator": 2.0, "worker": 3.0}

    def up() -> dict[str, float]:
        found = watched.prometheus.get("query", query="sum by (job) (up)")["result"]
        return {series["metric"]["job"]: float(series["value"][1]) for series in found}

    eventually(lambda: up() == expected, "all are up", PATIENCE_S)


def test_every_metric_of_the_alerts_is_there_and_none_of_them_fires(watched: Watched) -> None:
    rules = [rule for path in ALERTS for group in parse(path)["groups"] for rule in group["rules"]]
    for rule in rules:
        wanted = metrics_in(rule["expr"])
        assert wanted, rule
        there = eventually(
            lambda wanted=wanted: wanted <= names(watched.prometheus), f"{wanted}", PATIENCE_S
        )
        assert there, rule["alert"]
    loaded = [r for g in watched.prometheus.get("rules")["groups"] for r in g["rules"]]
    assert {rule["name"] for rule in loaded} == {rule["alert"] for rule in rules}
    eventually(
        lambda: all(
            rule["health"] == "ok"
            for group in watched.prometheus.get("rules")["groups"]
            for rule in group["rules"]
        ),
        "every rule was evaluated without an error",
    )
    firing = [a for a in watched.prometheus.get("alerts")["alerts"] if a["state"] == "firing"]
    assert not firing


def test_the_document_names_every_metric_and_none_that_is_not_there(watched: Watched) -> None:
    document = (ROOT / "docs" / "metrics.md").read_text()
    listed = re.findall(r"^\| `(rondo_\w+)`", document, re.MULTILINE)
    cluster = watched.cluster
    found = {
        family.name
        for program in ("gateway", "coordinator", "worker")
        for port in ports(cluster, program)
        for family in families(f"http://127.0.0.1:{port}/metrics")
    }
    assert {name for name in found if name.startswith("rondo_")} == set(listed)
    [requests] = {name for name in listed if listed.count(name) > 1}  # one program's each
    assert requests == "rondo_requests"


def families(url: str) -> list[Metric]:
    reply = httpx.get(url)
    assert reply.headers["content-type"].startswith("text/plain")
    return list(text_string_to_metric_families(reply.text))


def test_under_vllms_names_is_what_is_under_ours(watched: Watched) -> None:
    prometheus = watched.prometheus
    pairs = {
        "vllm:time_to_first_token_seconds_count": "rondo_time_to_first_token_seconds_count",
        'vllm:request_success_total{finished_reason="length"}': (
            'rondo_requests_total{outcome="length"}'
        ),
        "vllm:generation_tokens_total": "rondo_generation_tokens_total",
        "vllm:num_requests_running": 'rondo_requests{state="running"}',
        "vllm:kv_cache_usage_perc": (
            'rondo_kv_blocks{state="used"} / on (instance) '
            '(sum by (instance) (rondo_kv_blocks{state=~"used|free"}))'
        ),
    }
    for vllm, ours in pairs.items():
        # Read twice for one answer: what is counted meanwhile may be in the second alone.
        near = f"abs(sum({vllm}) - sum({ours})) / (sum({ours}) + 1)"
        eventually(lambda near=near: prometheus.values(near) == [0.0], near, PATIENCE_S)
    [model] = prometheus.get("label/model_name/values", **{"match[]": "vllm:kv_cache_usage_perc"})
    assert model == "rondo-tiny"
    assert prometheus.values("sum(vllm:prefix_cache_queries_total)")[0] > 0


def test_dashboards_name_things_once() -> None:
    for name, board in BOARDS.items():
        assert board["uid"] == f"rondo-{name}"
        titles = [panel["title"] for panel in panels(board)]
        assert len(titles) == len(set(titles)), name
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids)), name
        for panel in panels(board):
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]


def test_promtool_finds_nothing_wrong_with_configuration_and_rules(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yaml"  # as in the image: rules are beside it
    config.write_text(CONFIG.read_text())
    (tmp_path / "alerts").mkdir()
    for path in ALERTS:
        (tmp_path / "alerts" / path.name).write_text(path.read_text())
    said = promtool("check", "config", str(config))
    assert f"{len(ALERTS)} rule files found" in said


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    files = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
    said = promtool("test", "rules", *map(str, files))
    assert said.count("SUCCESS") == len(files)
    tested = {
        case["alertname"]
        for path in files
        for test in parse(path)["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    known = {r["alert"] for path in ALERTS for g in parse(path)["groups"] for r in g["rules"]}
    assert tested == known


def promtool(*arguments: str) -> str:
    command = [tool("promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def parse(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
