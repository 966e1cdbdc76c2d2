"""Settings: read once, named when wrong."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rondo.errors import ConfigError, ModelError
from rondo.local.model_folder import find_model
from rondo.perf.profile import builtin_names, load_profile
from rondo.policy.catalog import LIVE_POLICY_NAMES
from rondo.service.settings import describe, from_env, valid_id
from rondo.types import Chunk
from rondo_coordinator.settings import CoordinatorSettings
from rondo_gateway.settings import GatewaySettings
from rondo_worker.instance_setup import check_instance_policy
from rondo_worker.settings import WorkerSettings


def test_defaults_and_values_from_the_environment() -> None:
    env = {"RONDO_MODEL": "/m", "RONDO_HTTP_PORT": "81", "NATS_URL": "nats://bus:1"}
    settings = from_env(WorkerSettings, env)
    assert (settings.model, settings.http_port, settings.nats_url) == ("/m", 81, "nats://bus:1")
    assert settings.engine == "torch"


def test_an_empty_variable_means_the_default() -> None:
    settings = from_env(WorkerSettings, {"RONDO_MODEL": "/m", "RONDO_MAX_RUNNING": ""})
    assert settings.max_running == 256


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RONDO_HTTP_PORT", "eighty"),
        ("RONDO_HTTP_PORT", "70000"),
        ("RONDO_ENGINE", "quantum"),
        ("RONDO_BLOCK_SIZE", "-1"),
        ("RONDO_LOG_LEVEL", "LOUD"),
        ("RONDO_DRAIN_TIMEOUT_S", "-1"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_env(WorkerSettings, {"RONDO_MODEL": "/m", name: value})
    assert caught.value.setting == name
    assert value in str(caught.value)


def test_a_required_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="RONDO_MODELS: is not set"):
        from_env(GatewaySettings, {})


def test_help_lists_every_variable_with_its_default() -> None:
    text = describe(GatewaySettings)
    assert "NATS_URL" in text
    assert "RONDO_SLO_TTFT_MS" in text
    assert "(default 5000.0)" in text
    assert "(required)" in text


@pytest.mark.parametrize("name", LIVE_POLICY_NAMES)
def test_each_live_policy_can_be_made(name: str) -> None:
    assert CoordinatorSettings(policy=name).make_policy().num_pending == 0


@pytest.mark.parametrize("name", ["", "PADG", "padg-best", "nodg", "fudg"])
def test_another_policy_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="RONDO_POLICY"):
        CoordinatorSettings(policy=name).make_policy()


@pytest.mark.parametrize("name", ["", "vllm", "EconoServe", "chunked"])
def test_another_instance_policy_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="RONDO_INSTANCE_POLICY"):
        check_instance_policy(WorkerSettings(model="/m", instance_policy=name))


def test_an_instance_policy_has_no_say_in_a_pipe() -> None:
    settings = WorkerSettings(model="/m", engine="pipeline", pipeline_policy="tdpipe")
    check_instance_policy(settings)
    with pytest.raises(ConfigError, match="RONDO_INSTANCE_POLICY.*RONDO_PIPELINE_POLICY"):
        check_instance_policy(msgspec.structs.replace(settings, instance_policy="econoserve"))


def test_models_are_folders_with_or_without_a_name() -> None:
    settings = GatewaySettings(models="a=/x/one, /y/two")
    assert settings.model_folders() == {"a": Path("/x/one"), "two": Path("/y/two")}
    for bad in ("", "a=/x,a=/y"):
        with pytest.raises(ConfigError, match="RONDO_MODELS"):
            GatewaySettings(models=bad).model_folders()


def test_ids_must_fit_into_subjects() -> None:
    assert valid_id("RONDO_INSTANCE_ID", "w-1_A") == "w-1_A"
    for bad in ("", "a.b", "a b", "*", "x" * 65):
        with pytest.raises(ConfigError, match="RONDO_INSTANCE_ID"):
            valid_id("RONDO_INSTANCE_ID", bad)


def test_the_shipped_model_is_found_and_a_wrong_folder_says_what_is_missing(
    tmp_path: Path,
) -> None:
    assert (find_model(None, weights=True) / "model.safetensors").is_file()
    with pytest.raises(ModelError, match="is no folder"):
        find_model(str(tmp_path / "none"), weights=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"missing: tokenizer.json, tokenizer_config.json$"):
        find_model(str(tmp_path), weights=False)


def test_profiles_load_by_name_and_file_and_name_what_is_wrong(tmp_path: Path) -> None:
    for name in builtin_names():
        profile = load_profile(name)
        assert profile.name == name
        assert profile.source
        one, many = profile.decode_s(1, 100), profile.decode_s(64, 6400)
        assert 0 < one < many
        assert profile.prefill_s([Chunk(512, 0)]) < profile.prefill_s([Chunk(4096, 0)])
    with pytest.raises(ConfigError, match="codellama-34b-l20-tp4"):
        load_profile("h900")
    with pytest.raises(ConfigError, match="no file"):
        load_profile(str(tmp_path / "x.json"))
    bad = tmp_path / "bad.json"
    bad.write_text('{"name": "x", "source": 3}')
    with pytest.raises(ConfigError, match="source"):
        load_profile(str(bad))
