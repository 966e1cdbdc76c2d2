"""The commands as a user types them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import RONDO, Cluster, clean_env, running


def up(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A `rondo up` that is expected to refuse."""
    return subprocess.run(
        [RONDO, "up", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_env(**env),
    )


def test_ask_prints_the_answer_and_its_speed(torch_cluster: Cluster) -> None:
    result = torch_cluster.cli("ask", "Count from 1 to 5.")
    assert result.returncode == 0, result.stderr
    assert "1, 2, 3, 4, 5" in result.stdout
    assert "TTFT" in result.stdout
    assert "tokens/s" in result.stdout


def test_status_shows_each_instance(torch_cluster: Cluster) -> None:
    table = torch_cluster.cli("status").stdout
    assert "rondo-tiny: 2 instances" in table
    for instance in torch_cluster.status()["instances"]:
        assert instance["instance_id"] in table
        assert instance["engine"] == "torch"
        assert instance["phase"] in {"idle", "prefill", "decode"}
        assert instance["kv"]["total_blocks"] > 0
        assert 0 <= instance["report_age_s"] < 3


def test_status_shows_each_program(torch_cluster: Cluster) -> None:
    table = torch_cluster.cli("status").stdout
    programs = json.loads(torch_cluster.cli("status", "--json").stdout)["programs"]
    kinds = [program["kind"] for program in programs]
    assert kinds == ["coordinator", "coordinator", "gateway", "worker", "worker"]
    for program in programs:
        assert program["ready"]
        [row] = [line for line in table.splitlines() if program["name"] in line.split()]
        assert row.split() == [program["name"], str(program["pid"]), str(program["port"]), "ready"]


def test_a_program_that_is_not_there_cannot_be_restarted(torch_cluster: Cluster) -> None:
    result = torch_cluster.cli("restart", "worker-7")
    assert result.returncode == 1
    assert "'worker-7' is none of: all, coordinator, gateway, worker" in result.stderr


def test_events_tell_decisions_with_their_reasons(torch_cluster: Cluster) -> None:
    command = [RONDO, "events", "--run-dir", str(torch_cluster.run_dir)]
    pipe = subprocess.PIPE
    follower = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=clean_env())
    assert follower.stderr is not None
    assert "following" in follower.stderr.readline()
    torch_cluster.cli("ask", "Hello!")
    follower.send_signal(signal.SIGTERM)
    seen, _ = follower.communicate(timeout=20)
    assert follower.returncode == 0
    [admitted] = [line for line in seen.splitlines() if " admitted " in line]
    assert "reasons=" in admitted
    assert "predicted_ttft_s=" in admitted


def test_a_second_cluster_in_the_same_folder_is_refused(torch_cluster: Cluster) -> None:
    result = up("--run-dir", str(torch_cluster.run_dir))
    assert result.returncode == 2
    assert "already runs" in result.stderr


def test_down_stops_everything(tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "emulated", "--workers", "3") as cluster:
        children = cluster.children()
        assert len(children) == 7  # nats-server, two coordinators, gateway, three workers
        result = cluster.cli("down")
        assert result.returncode == 0, result.stderr
        assert cluster.process.wait(5) == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert cluster.cli("status").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_code_0_and_nothing_left(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, "--engine", "emulated", "--workers", "1") as cluster:
        children = cluster.children()
        assert cluster.stop(number) == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_nothing_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, "--engine", "emulated", "--workers", "1") as cluster:
        children = cluster.children()
        cluster.stop(signal.SIGKILL)
        deadline = 200
        while deadline and any(Path(f"/proc/{pid}").exists() for pid in children):
            deadline -= 1
            signal.sigtimedwait([], 0.05)
    assert deadline, "children are left"


def test_a_wrong_model_path_says_what_is_missing(tmp_path: Path) -> None:
    run_dir = ("--run-dir", str(tmp_path / "run"))
    result = up(*run_dir, "--model", str(tmp_path / "nowhere"))
    assert result.returncode == 2
    assert "nowhere is no folder" in result.stderr
    (tmp_path / "config.json").write_text("{}")
    result = up(*run_dir, "--model", str(tmp_path))
    assert result.returncode == 2
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        assert name in result.stderr
    assert "config.json," not in result.stderr.replace("tokenizer_config.json,", "")


def test_a_model_nobody_supports_ends_the_start_with_its_name(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    (model / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    (model / "model.safetensors").write_bytes(b"")
    result = up("--run-dir", str(tmp_path / "run"), "--model", str(model), "--port", "0")
    assert result.returncode == 1
    assert "ended with exit code 2" in result.stderr


def test_an_open_address_wants_keys(tmp_path: Path) -> None:
    options = ("--run-dir", str(tmp_path), "--engine", "emulated", "--port", "0")
    result = up(*options, "--host", "0.0.0.0")
    assert result.returncode == 1
    assert "RONDO_KEYS: is not set, but others can reach 0.0.0.0" in result.stderr
    result = up(*options, "--host", "192.0.2.1")
    assert result.returncode == 2
    assert "--host: cannot listen on 192.0.2.1:0" in result.stderr


def test_others_come_in_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = str(tmp_path / "keys.json")
    made = [RONDO, "keys", "new", "me", "--file", keys]
    key = subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("OPENAI_API_KEY", key)
    options = ("--engine", "emulated", "--workers", "1", "--host", "0.0.0.0")
    with running(tmp_path, *options, RONDO_KEYS=keys) as cluster:
        assert cluster.url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{cluster.url}/v1/models").status_code == 401
        allowed = {"authorization": f"Bearer {key}", "host": "rondo.example"}
        assert httpx.get(f"{cluster.url}/v1/models", headers=allowed).status_code == 200
        assert "tokens/s" in cluster.cli("ask", "Hello!").stdout


def test_a_taken_port_and_a_bad_setting_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ("--run-dir", str(tmp_path), "--engine", "emulated", "--port", str(port))
        result = up(*options)
    assert result.returncode == 2
    assert f"--port: cannot listen on 127.0.0.1:{port}" in result.stderr
    result = up(
        "--run-dir", str(tmp_path), "--engine", "emulated", "--port", "0", RONDO_POLICY="most"
    )
    assert result.returncode == 1
    assert "RONDO_POLICY" in result.stderr
    result = up("--workers", "0")
    assert result.returncode == 2
