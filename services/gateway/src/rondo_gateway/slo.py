"""Latency objectives of one request: in its body or a header, by numbers or by a class's name.

Surface: `SloField` for bodies, `classes_of` and `standard_of` for the settings, `resolve`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.functional_validators import WrapValidator

from rondo.errors import ConfigError
from rondo.types import Slo
from rondo_gateway.errors import invalid
from rondo_gateway.fields import Text
from rondo_gateway.messages import Strict
from rondo_gateway.settings import GatewaySettings

#: The request header, read where the body says nothing: a class, or "ttft_ms=200, tpot_ms=50".
HEADER = "x-slo"
#: The class of requests that name none.
STANDARD = "standard"

Milliseconds = Annotated[float | None, Field(gt=0, allow_inf_nan=False)]


class SloOptions(Strict):
    """The latencies that a request should meet; what is left open is the class's.

    No other field: one that is misspelt would silently mean the class's latencies.
    """

    model_config = ConfigDict(extra="forbid")

    ttft_ms: Milliseconds = None
    tpot_ms: Milliseconds = None
    name: Text | None = Field(default=None, alias="class")


def _named(value: object, parse: object) -> SloOptions | None:
    """Take a class's name for an object with nothing else."""
    if isinstance(value, str):
        value = {"class": value}
    return parse(value)  # type: ignore[operator,no-any-return]


SloField = Annotated[SloOptions | None, WrapValidator(_named)]


def classes_of(settings: GatewaySettings) -> dict[str, Slo]:
    """The classes that requests may name, "standard" among them.

    Raises:
        ConfigError: the setting is malformed.
    """
    standard = Slo(ttft_s=settings.slo_ttft_ms / 1000, tpot_s=settings.slo_tpot_ms / 1000)
    return parse_classes(settings.slo_classes, standard)


def standard_of(settings: GatewaySettings) -> Slo:
    """The objectives of requests that name none.

    Raises:
        ConfigError: as `classes_of`.
    """
    return classes_of(settings)[STANDARD]


def parse_classes(setting: str, standard: Slo) -> dict[str, Slo]:
    """The classes of "name=ttft_ms/tpot_ms, ...", and "standard" unless it is among them.

    Raises:
        ConfigError: an entry is not of this form.
    """
    classes = {STANDARD: standard}
    for entry in filter(None, (part.strip() for part in setting.split(","))):
        name, _, figures = entry.partition("=")
        ttft, _, tpot = figures.partition("/")
        try:
            slo = Slo(ttft_s=float(ttft) / 1000, tpot_s=float(tpot) / 1000)
        except ValueError:
            slo = Slo(ttft_s=0.0, tpot_s=0.0)
        if not name or not all(0 < s < math.inf for s in (slo.ttft_s, slo.tpot_s)):
            problem = f"{entry!r} is not of the form name=ttft_ms/tpot_ms"
            raise ConfigError("RONDO_SLO_CLASSES", problem)
        classes[name.strip()] = slo
    return classes


def resolve(body: SloOptions | None, header: str | None, classes: Mapping[str, Slo]) -> Slo:
    """The objectives of a request; the body goes before the header.

    Raises:
        ApiError: 400, there is no such class, or the header cannot be read.
    """
    param = "slo"
    if body is None and header is not None:
        body, param = _parse_header(header), HEADER
    if body is None:
        return classes[STANDARD]
    name = body.name or STANDARD
    base = classes.get(name)
    if base is None:
        known = ", ".join(classes)
        raise invalid(f"Invalid '{param}': there is no class '{name}', only {known}.", param)
    return Slo(
        ttft_s=base.ttft_s if body.ttft_ms is None else body.ttft_ms / 1000,
        tpot_s=base.tpot_s if body.tpot_ms is None else body.tpot_ms / 1000,
    )


def _parse_header(header: str) -> SloOptions:
    if "=" not in header:
        return SloOptions.model_validate({"class": header.strip()})
    found: dict[str, float] = {}
    for part in header.split(","):
        key, _, number = part.partition("=")
        try:
            found[key.strip()] = float(number)
        except ValueError:
            found = {}
            break
    if not found or not all(
        key in ("ttft_ms", "tpot_ms") and 0 < value < math.inf for key, value in found.items()
    ):
        message = (
            f"Invalid '{HEADER}': must be a class, or ttft_ms=..., tpot_ms=..., or one of both."
        )
        raise invalid(message, HEADER)
    return SloOptions(ttft_ms=found.get("ttft_ms"), tpot_ms=found.get("tpot_ms"))
