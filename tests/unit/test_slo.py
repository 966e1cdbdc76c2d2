"""Objectives of requests: classes, figures, the header, and the setting."""

from __future__ import annotations

import pytest

from rondo.errors import ConfigError
from rondo.types import Slo
from rondo_gateway.errors import ApiError
from rondo_gateway.settings import GatewaySettings
from rondo_gateway.slo import SloOptions, classes_of, parse_classes, resolve, standard_of

STANDARD = Slo(ttft_s=5.0, tpot_s=0.1)
CLASSES = parse_classes("interactive=500/40, batch = 60000/1000", STANDARD)


def test_the_setting_names_classes() -> None:
    assert {
        "standard": STANDARD,
        "interactive": Slo(ttft_s=0.5, tpot_s=0.04),
        "batch": Slo(ttft_s=60.0, tpot_s=1.0),
    } == CLASSES
    assert parse_classes("", STANDARD) == {"standard": STANDARD}
    assert parse_classes("standard=1000/1", STANDARD)["standard"].ttft_s == 1.0


def test_requests_that_name_no_class_get_the_standard_one() -> None:
    given = GatewaySettings(models="m", slo_ttft_ms=2000.0, slo_tpot_ms=80.0)
    assert standard_of(given) == Slo(ttft_s=2.0, tpot_s=0.08)
    assert list(classes_of(given)) == ["standard", "interactive", "batch"]
    named = GatewaySettings(models="m", slo_ttft_ms=2000.0, slo_classes="standard=1000/50")
    assert standard_of(named) == Slo(ttft_s=1.0, tpot_s=0.05)


@pytest.mark.parametrize("wrong", ["fast", "fast=5", "fast=5/x", "=5/5", "fast=0/5", "a=nan/1"])
def test_a_wrong_setting_stops_the_start(wrong: str) -> None:
    with pytest.raises(ConfigError, match="RONDO_SLO_CLASSES"):
        parse_classes(wrong, STANDARD)


def options(**fields: object) -> SloOptions:
    return SloOptions.model_validate(fields)


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        (None, None, STANDARD),
        (options(), None, STANDARD),
        (None, "", STANDARD),
        (options(ttft_ms=300), None, Slo(ttft_s=0.3, tpot_s=0.1)),
        (options(**{"class": "batch"}), None, CLASSES["batch"]),
        (options(**{"class": "batch", "tpot_ms": 70}), None, Slo(ttft_s=60.0, tpot_s=0.07)),
        (None, "interactive", CLASSES["interactive"]),
        (None, " ttft_ms = 300 , tpot_ms=20", Slo(ttft_s=0.3, tpot_s=0.02)),
        (None, "tpot_ms=20", Slo(ttft_s=5.0, tpot_s=0.02)),
        (options(ttft_ms=300), "batch", Slo(ttft_s=0.3, tpot_s=0.1)),
    ],
)
def test_what_holds(body: SloOptions | None, header: str | None, expected: Slo) -> None:
    assert resolve(body, header, CLASSES) == expected


@pytest.mark.parametrize(
    ("body", "header", "param"),
    [
        (options(**{"class": "fast"}), None, "slo"),
        (None, "fast", "x-slo"),
        (None, "ttft_ms=fast", "x-slo"),
        (None, "ttft_ms=-5", "x-slo"),
        (None, "ttft_ms=nan", "x-slo"),
        (None, "speed=5", "x-slo"),
        (None, "ttft_ms=5,", "x-slo"),
    ],
)
def test_what_is_refused(body: SloOptions | None, header: str | None, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        resolve(body, header, CLASSES)
    assert (caught.value.status, caught.value.param) == (400, param)
