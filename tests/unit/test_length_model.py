"""The trained predictor: training, calibration, the file."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rondo.errors import ConfigError
from rondo.lengths import features, model_file
from rondo.lengths.model import LengthModel, uncalibrated
from rondo.lengths.records import LengthRecord
from rondo_bench.lengths import judge
from rondo_bench.lengths.calibrate import calibrated, placed
from rondo_bench.lengths.fit import FitOptions, fit

OPTIONS = FitOptions(
    num_classes=12,
    orders=1,
    num_buckets=256,
    width=8,
    num_hidden=16,
    epochs=6,
    min_steps=1,
    batch=32,
)
PATH = Path("lengths.safetensors")


def answers(seed: int, number: int) -> list[LengthRecord]:
    """Prompts of noise with one token among them that tells how long the answer tends to be."""
    rng = random.Random(seed)
    found = []
    for _ in range(number):
        kind = rng.randrange(5)
        prompt = [rng.randrange(10, 50) for _ in range(rng.randrange(3, 30))]
        prompt.insert(rng.randrange(len(prompt)), kind)
        length = max(1, round(10 * 2**kind * rng.lognormvariate(0, 0.4)))
        limit = rng.choice((60, 1000, 1000))
        record = LengthRecord(
            model="m",
            prompt=prompt,
            max_tokens=limit,
            output=min(length, limit),
            finish="length" if length >= limit else "stop",
        )
        found.append(record)
    return found


@pytest.fixture(scope="module")
def model() -> LengthModel:
    return fit(answers(1, 3000), OPTIONS, lambda line: None)


def test_the_prompt_tells_how_long_the_answer_will_be(model: LengthModel) -> None:
    noise = [20, 30, 40, 11, 12]
    expected = [model.predict([*noise, kind], 1000).expected for kind in range(5)]
    true = [10 * 2**kind * np.exp(0.08) for kind in range(5)]
    assert expected == pytest.approx(true, rel=0.35)


def test_it_is_better_than_what_knows_no_text(model: LengthModel) -> None:
    found = judge.scores(model, judge.Known.of(answers(1, 3000)), answers(2, 500))
    mae = {name: score.mae for name, score in found.items()}
    oracle = mae.pop("near-oracle: the true class")
    ours = mae.pop("the predictor")
    assert oracle < ours < 0.7 * min(mae.values())


def test_quantiles_hold_on_answers_that_it_has_not_seen(model: LengthModel) -> None:
    found = judge.coverage(model, answers(3, 2000))
    for share, covered in found.items():
        assert covered == pytest.approx(share, abs=0.04)


def test_calibration_mends_a_classifier_that_is_too_sure(model: LengthModel) -> None:
    net = replace(model.net, output=model.net.output * 6, output_bias=model.net.output_bias * 6)
    sure = replace(model, net=net, calibration=uncalibrated())
    fresh = answers(4, 2000)
    bad, good = (
        judge.coverage(sure, fresh),
        judge.coverage(calibrated(sure, answers(5, 1000)), fresh),
    )
    assert max(abs(covered - share) for share, covered in bad.items()) > 0.08
    assert max(abs(covered - share) for share, covered in good.items()) < 0.05


def test_cut_answers_do_not_pull_predictions_down(model: LengthModel) -> None:
    """A third of the longest kind is cut at 60 tokens; taken for ends they would say 100."""
    assert model.predict([4, 20, 30, 40], 1000).expected > 130


def test_a_cut_answer_lies_above_its_limit(model: LengthModel) -> None:
    record = LengthRecord(model="m", prompt=[1, 20], max_tokens=30, output=30, finish="length")
    cumulative = np.array([model.predict(record.prompt, 30).cumulative] * 50)
    ranks = placed(model, cumulative, [record] * 50)
    assert ranks.min() >= model.predict(record.prompt, 30).cdf(30)


def test_the_same_log_gives_the_same_predictor() -> None:
    options = replace(OPTIONS, epochs=1)
    one, two = (fit(answers(1, 400), options, lambda line: None) for _ in range(2))
    assert one.predict([1, 2, 3], 100) == two.predict([1, 2, 3], 100)
    assert (one.net.embedding == two.net.embedding).all()


def test_features_never_change() -> None:
    """Other buckets would make every trained file worthless: raise model_file.VERSION then."""
    whole, recent = features.bags([1, 2, 3, 70_000], orders=2, num_buckets=1000, recent=2)
    assert whole.tolist() == [813, 486, 344, 62, 518, 250, 814]
    assert recent.tolist() == [344, 62, 814]


def test_a_long_prompt_is_seen_by_its_beginning_and_its_end() -> None:
    def seen(prompt: list[int]) -> list[list[int]]:
        return [bag.tolist() for bag in features.bags(prompt, 2, 1000, 64)]

    head, tail = list(range(features.HEAD_TOKENS)), list(range(features.TAIL_TOKENS))
    assert seen([*head, *[7] * 5000, *tail]) == seen([*head, *[8] * 90, *tail])
    assert seen([*head, *tail]) != seen([*head, 9, *tail[1:]])


def test_a_file_brings_back_the_same_predictor(model: LengthModel, tmp_path: Path) -> None:
    model_file.save(model, tmp_path / PATH, {"model": "m"})
    loaded = model_file.load(tmp_path / PATH, "RONDO_LENGTHS")
    model_file.save(loaded, tmp_path / "again", {"model": "m"})
    assert (tmp_path / "again").read_bytes() == (tmp_path / PATH).read_bytes()
    for record in answers(6, 50):
        ours = model.predict(record.prompt, record.max_tokens)
        assert loaded.predict(record.prompt, record.max_tokens) == ours


def spoil(path: Path, **changes: np.ndarray) -> None:
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors | changes, path, metadata=file.metadata())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hidden_bias": np.zeros(3, np.float32)}, "hidden_bias has shape"),
        ({"embedding": np.zeros((2, 9), np.float16)}, "not 3 dimensions"),
        ({"embedding": np.zeros((3, 9, 8), np.float16)}, "embedding has shape"),
        ({"output_bias": np.full(12, np.nan, np.float32)}, "output_bias is not finite"),
        ({"edges": np.arange(13)[::-1].copy()}, "edges do not rise"),
        ({"levels": np.array([0.0, 0.7, 0.3, 1.0])}, "levels do not rise"),
        ({"temperature": np.array([0.0])}, "not above 0"),
        ({"means": np.zeros(())}, "is damaged"),
    ],
)
def test_a_damaged_file_is_refused(
    model: LengthModel, tmp_path: Path, changes: dict[str, np.ndarray], problem: str
) -> None:
    model_file.save(model, tmp_path / PATH, {})
    spoil(tmp_path / PATH, **changes)
    with pytest.raises(ConfigError, match=problem) as caught:
        model_file.load(tmp_path / PATH, "RONDO_LENGTHS")
    assert caught.value.setting == "RONDO_LENGTHS"
    assert str(tmp_path / PATH) in caught.value.problem


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / PATH
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ConfigError, match="cannot be read"):
        model_file.load(path, "RONDO_LENGTHS")
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ConfigError, match="is no length predictor of version 1"):
        model_file.load(path, "RONDO_LENGTHS")
    for facts in (
        "{",
        '{"version":2,"orders":1,"recent":1}',
        '{"version":1,"orders":99,"recent":1}',
    ):
        save_file({"weight": np.zeros(3)}, path, metadata={"rondo-lengths": facts})
        with pytest.raises(ConfigError, match="is no length predictor of version 1"):
            model_file.load(path, "RONDO_LENGTHS")
    facts = '{"version":1,"orders":1,"recent":1}'
    save_file({"edges": np.zeros(3)}, path, metadata={"rondo-lengths": facts})
    with pytest.raises(ConfigError, match="lacks embedding, hidden"):
        model_file.load(path, "RONDO_LENGTHS")
    with path.open("wb") as file:
        file.truncate(model_file.MAX_BYTES + 1)
    with pytest.raises(ConfigError, match="no length predictor"):
        model_file.load(path, "RONDO_LENGTHS")


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ConfigError, match="200 are needed"):
        fit(answers(1, 150), OPTIONS, lambda line: None)
