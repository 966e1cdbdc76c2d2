"""The models that this gateway serves, and what the cluster can hold of each now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rondo_gateway.directory import Directory
from rondo_gateway.errors import model_not_found
from rondo_gateway.responses import model_card
from rondo_gateway.text.model_files import ModelFiles


class ServedModels:
    """Models by the names that clients use."""

    def __init__(self, models: Mapping[str, ModelFiles], directory: Directory) -> None:
        self._models = models
        self._directory = directory
        self._created = int(time.time())

    @property
    def names(self) -> list[str]:
        """The models' names, in the order of the settings."""
        return list(self._models)

    def find(self, name: str | None) -> ModelFiles:
        """The model of this name; without a name the only one there is.

        Raises:
            ApiError: 404, there is no such model.
        """
        if name is None and len(self._models) == 1:
            return next(iter(self._models.values()))
        model = self._models.get(name or "")
        if model is None:
            raise model_not_found(name or "")
        return model

    def max_model_len(self, model: ModelFiles) -> int:
        """The model's limit, or less where no instance can hold so much."""
        served = self._directory.max_model_len(model.name)
        return min(model.max_model_len, served) if served else model.max_model_len

    def card(self, model: ModelFiles) -> dict[str, Any]:
        """The object of GET /v1/models/{name}."""
        return model_card(model.name, self._created, self.max_model_len(model))
