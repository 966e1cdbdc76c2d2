"""Built-in latency profiles, and foreign files."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.perf.profile import builtin_names, load_profile, pool_blocks

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared/data/profiles/fitted_coefficients.json"
FIELDS = {
    "prefill_floor_ms": [20.0, 0.1],
    "prefill_line_ms": [5.0, 0.2],
    "prefill_attn_ms": [0.0, 0.0, 1e-6],
    "decode_ms": [20.0, 0.1, 1e-4],
}


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


#: Derived from published measurements of GPUs, and measured here on CPUs.
GPU_NAMES = [name for name in builtin_names() if "-tp" in name]
CPU_NAMES = [name for name in builtin_names() if "-cpu" in name]


def test_every_builtin_profile_is_of_a_known_origin() -> None:
    assert sorted([*GPU_NAMES, *CPU_NAMES]) == builtin_names()


@pytest.mark.parametrize("name", CPU_NAMES)
def test_a_measured_profile_says_how_and_how_well(name: str) -> None:
    profile = load_profile(name)
    path = ROOT / f"shared/src/rondo/perf/profiles/{name}.json"
    fit = json.loads(path.read_text())["fit"]
    assert profile.name == name
    assert profile.licence
    assert "rondo-bench profile" in profile.source
    assert name.rpartition("-")[2] in profile.source
    assert set(fit) == {"prefill", "decode", "fused"}
    assert all(kind["mean_error"] < 0.15 for kind in fit.values())
    assert 0 < profile.decode_s(1, 100) < profile.decode_s(32, 16_000)
    assert 0 < profile.step_s(64, 64**2, 0, 0) < profile.step_s(1024, 1024**2, 0, 0)


@pytest.mark.parametrize("name", GPU_NAMES)
def test_a_builtin_profile_is_whole_and_plausible(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert len(profile.source) > 20
    assert profile.licence
    assert 0.005 < profile.decode_s(32, 16_000) < 0.1
    assert profile.decode_s(64, 64_000) > profile.decode_s(32, 16_000)
    one_s, four_s = (profile.step_s(n, n * n, 0, 0) for n in (1024, 4096))
    assert 3 < four_s / one_s < 5
    riding_s = profile.step_s(1024, 1024**2, 32, 16_000)
    assert one_s < riding_s < one_s + profile.decode_s(32, 16_000)


@pytest.mark.parametrize("name", GPU_NAMES)
def test_the_pool_follows_from_the_memory(name: str) -> None:
    profile = load_profile(name)
    assert profile.num_gpus
    assert profile.gpu_memory_bytes
    assert profile.weight_bytes
    assert profile.kv_bytes_per_token
    free_bytes = 0.9 * profile.num_gpus * profile.gpu_memory_bytes - profile.weight_bytes
    tokens = profile.num_blocks * profile.block_size
    assert tokens * profile.kv_bytes_per_token == pytest.approx(free_bytes, rel=1e-3)


def test_weights_that_fill_the_memory_are_refused() -> None:
    with pytest.raises(ConfigError, match="no room"):
        pool_blocks(1, 10**9, 10**9, 1000)


def test_a_foreign_file_needs_only_its_coefficients(tmp_path: Path) -> None:
    path = write(tmp_path / "my-gpu.json", {**FIELDS, "mape": 0.03, "anything": [1]})
    profile = load_profile(path)
    assert (profile.name, profile.cpu_ms, profile.num_blocks) == ("my-gpu", 0.0, 4096)
    assert "my-gpu.json" in profile.source
    sizes = {"num_gpus": 1, "gpu_memory_bytes": 10**9, "weight_bytes": 10**8}
    path = write(tmp_path / "sizes.json", {**FIELDS, **sizes, "kv_bytes_per_token": 50_000})
    assert load_profile(path).num_blocks == 1000


def test_an_entry_of_a_file_of_many_is_taken_by_its_key(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", {"_form": "text", "A|B (c/d)": FIELDS})
    assert load_profile(f"{path}#A|B (c/d)").name == "A|B (c/d)"
    with pytest.raises(ConfigError, match=r"no entry 'x'; it has: A\|B"):
        load_profile(f"{path}#x")


def test_keys_and_folders_may_contain_anything_and_a_key_may_be_begun(tmp_path: Path) -> None:
    folder = tmp_path / "run #3"
    folder.mkdir()
    slow = {**FIELDS, "decode_ms": [40.0, 0.1, 1e-4], "source": "slow bus"}
    path = write(folder / "all.json", {"M|L20|TP4|a#1": FIELDS, "M|L20|TP4|b": slow, "M|L20": slow})
    assert load_profile(f"{path}#M|L20|TP4|a#1").decode_ms[0] == 20.0
    assert load_profile(f"{path}#M|L20|TP4").name == "M|L20|TP4|a#1"
    assert load_profile(f"{path}#M|L20").source == "slow bus"
    with pytest.raises(ConfigError, match="no entry 'M.L2'"):
        load_profile(f"{path}#M|L2")


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the public data are not here")
def test_the_published_fits_load_by_key_and_the_builtins_are_made_of_them() -> None:
    fit = load_profile(f"{PUBLISHED}#CodeLlama-34b|L20|TP4")
    builtin = load_profile("codellama-34b-l20-tp4")
    assert (fit.decode_ms, fit.prefill_line_ms) == (builtin.decode_ms, builtin.prefill_line_ms)
    assert (fit.cpu_ms, builtin.cpu_ms) == (0.0, 4.0)
    derive = runpy.run_path(str(ROOT / "tools/perf/derive_profiles.py"))
    coefficients = json.loads(PUBLISHED.read_text())
    for name in GPU_NAMES:
        text = (ROOT / f"shared/src/rondo/perf/profiles/{name}.json").read_text()
        assert derive["profile"](name, coefficients) == json.loads(text)


def test_a_name_of_any_length_is_only_wrong() -> None:
    with pytest.raises(ConfigError, match="neither a file"):
        load_profile("x" * 5000)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decode_ms": [1.0, 2.0]}, "decode_ms"),
        ({"prefill_line_ms": None}, "prefill_line_ms"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"cpu_ms": -1.0}, "cpu_ms"),
        ({"kv_bytes_per_token": 0}, "kv_bytes_per_token"),
        ({"decode_ms": [-5.0, 0.0, 0.0]}, "decode_ms"),
        ({"prefill_attn_ms": [0.0, 0.0, -1.0]}, "prefill"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_profile(write(tmp_path / "p.json", {**FIELDS, **change}))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    fields = {key: value for key, value in FIELDS.items() if key != "decode_ms"}
    with pytest.raises(ConfigError, match="decode_ms"):
        load_profile(write(tmp_path / "p.json", fields))
