"""The chart, rendered by Helm's own library, its objects checked against Kubernetes' schemas."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "rondo"
RELEASE = "demo"
#: The oldest that Chart.yaml allows, and the newest that is known here.
KUBERNETES = ("1.27", "1.36")

Objects = dict[tuple[str, str], dict[str, Any]]
Render = Callable[[dict[str, Any]], Objects]


@functools.cache
def _validate(item: str) -> None:
    """Checks an object, once; it takes a while."""
    for version in KUBERNETES:
        kubernetes_validate.validate(json.loads(item), version, strict=True)


@pytest.fixture(scope="session")
def render() -> Iterator[Render]:
    """Renders with values; objects by kind and name."""
    helm = pytest.importorskip("helm_python", reason="no build of Helm's library here")
    with helm.Chart.load(CHART) as chart:

        def rendered(values: dict[str, Any]) -> Objects:
            objects: Objects = {}
            for file, text in chart.render(values=values, name=RELEASE).items():
                if not file.endswith(".yaml"):
                    continue
                for item in filter(None, yaml.safe_load_all(text)):
                    _validate(json.dumps(item))
                    key = item["kind"], item["metadata"]["name"].removeprefix(f"{RELEASE}-")
                    assert key not in objects
                    objects[key] = item
            return objects

        yield rendered
