"""Distributions of answer lengths, and what the gateway tells schedulers of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.lengths.classes import LengthClasses, LengthDistribution
from rondo.lengths.empirical import EmpiricalLengths
from rondo.types import FinishReason
from rondo_gateway.lengths import FIRST_GUESS, MARGIN, OutputLengths, trained_models

EVEN = LengthDistribution(LengthClasses((0, 10, 20, 40), (5.5, 15.5, 30.5)), (0.0, 0.5, 0.75, 1.0))


def test_classes_hold_as_many_lengths_each() -> None:
    classes = LengthClasses.of(list(range(1, 101)), 4)
    assert classes.edges == (0, 25, 50, 75, 100)
    assert classes.means == (13.0, 38.0, 63.0, 88.0)
    assert [classes.index(length) for length in (0, 1, 25, 26, 100, 999)] == [0, 0, 0, 1, 3, 3]


def test_a_length_that_many_answers_have_is_a_class() -> None:
    classes = LengthClasses.of([7] * 50 + [20, 30, 40], 8)
    assert classes.edges[:2] == (6, 7)
    assert classes.means[0] == 7.0
    assert LengthClasses.of([5, 5, 5], 4) == LengthClasses((4, 5), (5.0,))


def test_expected_cdf_and_quantiles_agree() -> None:
    assert EVEN.expected == pytest.approx(0.5 * 5.5 + 0.25 * 15.5 + 0.25 * 30.5)
    assert [EVEN.cdf(n) for n in (0, 5, 10, 20, 30, 40, 99)] == [0, 0.25, 0.5, 0.75, 0.875, 1, 1]
    assert [EVEN.quantile(q) for q in (0.0, 0.25, 0.5, 0.51, 0.75, 1.0)] == [1, 5, 10, 11, 20, 40]
    for share in (0.01, 0.3, 0.5, 0.77, 0.99):
        length = EVEN.quantile(share)
        assert EVEN.cdf(length - 1) < share <= EVEN.cdf(length)


def test_classes_without_a_chance_are_skipped() -> None:
    sure = LengthDistribution(EVEN.classes, (0.0, 0.0, 1.0, 1.0))
    assert [sure.quantile(q) for q in (0.1, 0.5, 1.0)] == [11, 15, 20]
    assert sure.expected == 15.5


def test_an_answer_that_goes_on_is_expected_to_be_longer() -> None:
    assert EVEN.expected_after(0) == EVEN.expected
    assert EVEN.expected_after(20) == pytest.approx(10.5)  # 21 to 40 are as likely
    assert EVEN.expected_after(30) == pytest.approx(5.5)
    assert EVEN.expected_after(39) == pytest.approx(1.0)
    assert EVEN.expected_after(500) == 1.0
    both = EVEN.expected_after(5)  # 6..10, 11..20, 21..40 at 0.25 each
    assert both == pytest.approx((3 + 10.5 + 25.5) / 3)


def test_the_last_answers_are_remembered_and_older_ones_forgotten() -> None:
    seen = EmpiricalLengths(window=4)
    assert (seen.mean, seen.distribution()) == (None, None)
    for length in (1000, 10, 20, 30, 40):
        seen.observe(length)
    assert seen.mean == 25.0
    spread = seen.distribution()
    assert spread is not None
    assert spread.expected == pytest.approx(25.0)
    assert [spread.quantile(q) for q in (0.25, 0.5, 0.75, 1.0)] == [10, 20, 30, 40]


def test_where_no_predictor_is_trained_the_mean_of_the_last_answers_is_told() -> None:
    lengths = OutputLengths()
    assert lengths.predict("m", [1], 10_000, exact=False) == round(FIRST_GUESS * MARGIN)
    assert lengths.predict("m", [1], 50, exact=False) == 50
    assert lengths.predict("m", [1], 9_000, exact=True) == 9_000
    for length in (10, 30):
        lengths.observe("m", [1], 100, length, FinishReason.STOP)
    lengths.observe("m", [1], 100, 100, FinishReason.LENGTH)  # no length of an answer
    assert lengths.predict("m", [1], 10_000, exact=False) == 24
    assert lengths.predict("other", [1], 10_000, exact=False) == round(FIRST_GUESS * MARGIN)


def test_the_rest_of_an_answer_is_told_without_what_is_there() -> None:
    lengths = OutputLengths()
    lengths.observe("m", [1], 100, 20, FinishReason.STOP)
    assert lengths.predict("m", [1], 100, exact=False, done=5) == 18
    assert lengths.predict("m", [1], 100, exact=False, done=90) == 1
    assert lengths.predict("m", [1], 100, exact=True, done=90) == 10


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("other=/x", "'other' is no model"),
        ("/x", "several models"),
        ("a=/x,a=/y", "'a' is there twice"),
        ("a=/nowhere/l.safetensors", "/nowhere/l.safetensors cannot be read"),
    ],
)
def test_a_wrong_setting_says_so(setting: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        trained_models(setting, {"a": Path("/a"), "b": Path("/b")})
    assert caught.value.setting == "RONDO_LENGTHS"


def test_models_without_a_predictor_have_none(tmp_path: Path) -> None:
    assert trained_models("", {"a": tmp_path}) == {}
    assert trained_models("off", {"a": tmp_path}) == {}


def test_without_numpy_a_predictor_that_is_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rondo" / "lengths.safetensors"
    file.parent.mkdir()
    file.touch()
    monkeypatch.delitem(sys.modules, "rondo.lengths.model_file", raising=False)
    monkeypatch.delattr("rondo.lengths.model_file", raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert trained_models("", {"a": tmp_path}) == {}
    with pytest.raises(ConfigError, match=r"RONDO_LENGTHS: needs numpy"):
        trained_models(str(file), {"a": tmp_path})
