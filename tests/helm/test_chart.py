"""deploy/helm/rondo: valid with every choice, safe by default, and the same cluster as compose."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from rondo.bus.permissions import WORKER, user_of
from rondo.bus.url import parse_servers, userinfo_of
from rondo.local.nats_server import find_binary
from rondo.service.settings import variable
from rondo_coordinator.settings import CoordinatorSettings
from rondo_gateway.settings import GatewaySettings
from rondo_worker.settings import WorkerSettings
from tests.helm.conftest import CHART, RELEASE, Objects, Render
from tests.support.cluster import RONDO

ROOT = CHART.parents[2]
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
PROGRAMS = ("gateway", "coordinator", "worker")
SETTINGS = {
    "gateway": GatewaySettings,
    "coordinator": CoordinatorSettings,
    "worker": WorkerSettings,
}
#: Everything that is off by default.
ALL_ON: dict[str, Any] = {
    "demo": True,
    "image": {"registry": "registry.example", "tag": "1.2.3", "pullSecrets": [{"name": "pull"}]},
    "model": {"name": "llama", "existingClaim": "models"},
    "gateway": {
        "keysSecret": "keys",
        "tlsSecret": "web",
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "autoscaling": {"enabled": True},
        "env": {"RONDO_MAX_BODY_BYTES": 1000000},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    },
    "worker": {
        "engine": "vllm",
        "gpus": 2,
        "autoscaling": {"enabled": True, "selector": {"model_name": "llama"}},
    },
    "nats": {"tlsSecret": "bus", "storageClass": "fast"},
    "networkPolicy": {
        "clients": [{"namespaceSelector": {}}],
        "monitoring": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
        "egress": [{"ports": [{"port": 4318}]}],
    },
}


def pod_of(objects: Objects, name: str) -> dict[str, Any]:
    for kind in ("Deployment", "StatefulSet"):
        if found := objects.get((kind, name)):
            pod: dict[str, Any] = found["spec"]["template"]["spec"]
            return pod
    raise AssertionError(f"nothing runs {name}")


def env_of(objects: Objects, name: str) -> dict[str, str]:
    [container] = pod_of(objects, name)["containers"]
    return {one["name"]: one.get("value", "") for one in container["env"]}


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "requests" and key != "limits":
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


@pytest.mark.parametrize(
    "values",
    [
        {},
        ALL_ON,
        {"worker": {"engine": "torch"}, "model": {"hostPath": "/models/llama"}},
        {"nats": {"replicas": 1}, "networkPolicy": {"enabled": False}},
    ],
)
def test_it_renders_to_what_kubernetes_takes(render: Render, values: dict[str, Any]) -> None:
    objects = render(values)
    assert {("Deployment", "gateway"), ("Deployment", "coordinator")} <= objects.keys()
    assert {("StatefulSet", "worker"), ("StatefulSet", "nats")} <= objects.keys()


@pytest.mark.parametrize(
    "values",
    [
        {"worker": {"engine": "cuda"}},
        {"worker": {"replica": 3}},
        {"nats": {"replicas": 2}},
        {"gateway": {"env": "lower case"}},
        {"logLevel": "debug"},
        {"unknown": 1},
        {"model": {"hostPath": "relative"}},
    ],
)
def test_wrong_values_are_refused(render: Render, values: dict[str, Any]) -> None:
    [(first, second)] = ((k, v) for k, v in values.items())
    [named] = second if isinstance(second, dict) else [first]
    with pytest.raises(Exception, match=named):
        render(values)


def test_helm_finds_nothing_wrong() -> None:
    helm = pytest.importorskip("helm_python", reason="no build of Helm's library here")
    report = helm.lint(CHART)
    assert report["errors"] == []
    worth_reading = [m for m in report["messages"] if "icon is recommended" not in m["error"]]
    assert worth_reading == []


@pytest.mark.parametrize("values", [{}, ALL_ON])
def test_pods_may_do_little(render: Render, values: dict[str, Any]) -> None:
    objects = render(values)
    for name in (*PROGRAMS, "nats"):
        pod = pod_of(objects, name)
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["runAsUser"] == 10001, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            may = container["securityContext"]
            assert may["readOnlyRootFilesystem"], name
            assert may["allowPrivilegeEscalation"] is False, name
            assert may["capabilities"] == {"drop": ["ALL"]}, name
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
            assert "memory" in container["resources"]["limits"], name
        # No password is in what everybody who may read pods can read.
        assert not any("://" in value for value in env_of(objects, name).values()), name
        assert ("NetworkPolicy", name) in objects
        assert ("PodDisruptionBudget", name) in objects


def test_programs_know_the_settings_they_are_given(render: Render) -> None:
    for values in ({}, ALL_ON, {"worker": {"engine": "torch"}}):
        objects = render(values)
        for name, cls in SETTINGS.items():
            known = {variable(field) for field in cls.__struct_fields__}
            given = env_of(objects, name).keys() - {"NATS_URL_FILE", "POD_NAME"}
            assert given <= known, name


def test_large_numbers_stay_as_they_are(render: Render) -> None:
    """Helm's own way of writing a million is 1e+06."""
    env = env_of(render(ALL_ON), "gateway")
    assert (env["RONDO_MAX_BODY_BYTES"], env["RONDO_SLO_TTFT_MS"]) == ("1000000", "5000")


def test_nothing_is_killed_before_its_drain_is_over(render: Render) -> None:
    objects = render({})
    for name in ("gateway", "worker"):
        drain_s = float(env_of(objects, name)["RONDO_DRAIN_TIMEOUT_S"])
        assert pod_of(objects, name)["terminationGracePeriodSeconds"] >= drain_s + 10


def test_defaults_are_those_of_compose(render: Render) -> None:
    """The table of docs/helm.md names every value and every variable, and equal defaults."""
    example = (ROOT / "deploy" / "compose" / ".env.example").read_text()
    variables = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE))
    text = (ROOT / "docs" / "helm.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`|—) \| (`[^|]+`|—) \|([^|]*)\|$", text, re.MULTILINE)
    values = leaves(VALUES)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]
    told = [name for row in rows for name in re.findall(r"`([^`]+)`", row[1])]
    expanded = [value for name in named for value in (_matching(name, values) or [name])]
    assert sorted(expanded) == sorted(values)
    assert sorted(told) == sorted(variables)
    for value, setting, note in rows:
        if value == "—" or setting == "—" or note.strip():
            continue  # it has no counterpart, or the row says what is different
        default = values[value.strip("`")]
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert shown == variables[setting.strip("`")], value


def _matching(name: str, values: dict[str, Any]) -> list[str]:
    """`*.x` stands for the same value of several components, `x.*` for all below."""
    pattern = re.escape(name).replace(r"\*", r"[\w.]+")
    return [value for value in values if re.fullmatch(pattern, value)]


def test_every_worker_finds_its_own_password_and_no_other(tmp_path: Path, render: Render) -> None:
    command = [RONDO, "secrets", str(tmp_path / "s"), "--kubernetes", RELEASE, "--workers", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    secrets = {
        item["metadata"]["name"]: item["stringData"] for item in json.loads(done.stdout)["items"]
    }
    objects = render({})
    mounted = {
        volume["secret"]["secretName"]
        for name in (*PROGRAMS, "nats")
        for volume in pod_of(objects, name)["volumes"]
        if "secret" in volume
    }
    assert mounted == secrets.keys() - {f"{RELEASE}-bus-operator"}
    [container] = pod_of(objects, "worker")["containers"]
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "bus"]
    assert mount["subPathExpr"] == "$(POD_NAME)"
    urls = secrets[f"{RELEASE}-bus-worker"]
    assert list(urls) == [f"{RELEASE}-worker-{number}" for number in range(3)]
    for pod_name, url in urls.items():
        servers = parse_servers(url)
        assert {(userinfo_of(server) or ("",))[0] for server in servers} == {
            user_of(WORKER, pod_name)
        }
        hosts = [server.rpartition("@")[2] for server in servers]
        assert hosts == [f"{RELEASE}-nats-{n}.{RELEASE}-nats:4222" for n in range(3)]
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert again.stdout == done.stdout  # passwords stay


@pytest.mark.parametrize("replicas", [1, 3])
def test_nats_server_takes_the_configuration(tmp_path: Path, render: Render, replicas: int) -> None:
    command = [RONDO, "secrets", str(tmp_path / "s"), "--kubernetes", RELEASE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    files = json.loads(done.stdout)["items"][0]["stringData"]
    config = render({"nats": {"replicas": replicas}})["ConfigMap", "nats"]["data"]["nats.conf"]
    (tmp_path / "nats.conf").write_text(config)
    (tmp_path / "secrets").mkdir()
    for name, text in files.items():
        (tmp_path / "secrets" / name).write_text(text)
    checked = subprocess.run(
        [find_binary(), "--config", str(tmp_path / "nats.conf"), "-t"],
        env={"POD_NAME": "demo-nats-0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert checked.returncode == 0, checked.stderr
    assert ("routes.conf" in config) == (replicas == 3)
