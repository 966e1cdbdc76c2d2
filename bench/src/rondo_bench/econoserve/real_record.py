"""What a real run found: the figures that are printed, and the file that the page is made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from rondo.errors import ConfigError


class RealFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one policy; medians over the rounds.

    requests_per_s_at_equal_latency: the rate at which mean normalized latency (arrival to last
    token, over tokens) is at the level. saturated_requests_per_s, preempted_share, kv_used_share,
    forward_tokens (a step): with a backlog. slo_satisfaction, normalized_latency_s, completion_s:
    of one run at the rate at which first come, first served is at the level. different_texts: the
    sum over all runs.
    """

    requests_per_s_at_equal_latency: float
    saturated_requests_per_s: float
    slo_satisfaction: float
    preempted_share: float
    kv_used_share: float
    forward_tokens: float
    normalized_latency_s: float
    completion_s: float
    different_texts: int


class RealModel(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model: its size, the KV pool's, how long requests come in a run, the level
    of latency."""

    weight_bytes: int
    pool_tokens: int
    run_s: float
    level_s: float
    policies: dict[str, RealFigures]


class RealRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run, by model."""

    machine: str
    date: str
    num_rounds: int
    models: dict[str, RealModel]

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls, path: Path) -> RealRecord:
        """Reads what `save` wrote.

        Raises:
            ConfigError: it is no such file.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(str(path), f"is no record of a real run: {error}") from error

    def printed(self) -> Mapping[str, object]:
        """By policy: the figures of the first model, and those of others under their names."""
        first, *others = self.models
        return {
            name: {
                **msgspec.structs.asdict(figures),
                **{other: self.models[other].policies[name] for other in others},
            }
            for name, figures in self.models[first].policies.items()
        }
