"""The files of the profile `monitoring` find each other in their containers."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.monitoring.dashboards import FOLDER
from tests.monitoring.prometheus import ALERTS, COMPOSE, CONFIG, ROOT

SERVICES: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
GRAFANA = COMPOSE / "grafana" / "provisioning"


def mounts() -> dict[str, str]:
    """What Grafana sees where: path in the container -> path here."""
    pairs = [volume.split(":") for volume in SERVICES["grafana"]["volumes"]]
    return {pair[1]: pair[0] for pair in pairs if pair[0].startswith("./")}


def test_grafana_finds_dashboards_and_prometheus() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert mounts()[environment["GF_PATHS_PROVISIONING"]] == "./grafana/provisioning"
    [provider] = yaml.safe_load((GRAFANA / "dashboards" / "rondo.yaml").read_text())["providers"]
    folder = PurePosixPath(provider["options"]["path"])
    assert (COMPOSE / mounts()[str(folder)]).resolve() == FOLDER.resolve()
    home = PurePosixPath(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == folder
    assert (FOLDER / home.name).exists()
    [source] = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert SERVICES["prometheus"]["ports"][0].endswith(":9090")
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])
    interval = yaml.safe_load(CONFIG.read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval


def test_the_image_of_prometheus_has_the_rules_where_its_configuration_looks() -> None:
    dockerfile = (COMPOSE / "prometheus" / "Dockerfile").read_text()
    config = re.search(r"--config\.file=(\S+?)\"", dockerfile)
    assert config
    [pattern] = yaml.safe_load(CONFIG.read_text())["rule_files"]
    wanted = PurePosixPath(config.group(1)).parent / pattern
    copied = re.search(r"^COPY deploy/compose/alerts/ (\S+)$", dockerfile, re.MULTILINE)
    assert copied
    assert PurePosixPath(copied.group(1)) == wanted.parent
    assert all(path.match(wanted.name) for path in ALERTS)


def test_every_alert_is_explained_and_none_that_is_not_there() -> None:
    document = (ROOT / "docs" / "monitoring.md").read_text()
    explained = re.findall(r"^\| `(Rondo\w+)` ", document, re.MULTILINE)
    groups = [group for path in ALERTS for group in yaml.safe_load(path.read_text())["groups"]]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert sorted(explained) == sorted(alerts)
