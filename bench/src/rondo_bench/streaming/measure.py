"""What a round of streaming is, and what came out of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgspec

#: A token of the model that ships whose text is one byte that no event has otherwise.
MARK_ID, MARK = 134, b"~"
#: What other programs' environments must not bring into a measured one.
_OURS = ("RONDO_", "NATS_URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One round: all streams begin together, each with one prompt of a few tokens."""

    num_streams: int
    output_tokens: int
    tokens_a_step: int = 1
    chat: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one side.

    Attributes:
        cpu_s: of the measured process, from the first request to the last event.
        steady_cpu_s: of it while tokens stream, without requests; None where nobody can tell.
        wall_s: of the streaming; without the time until the last stream had begun where the side
            can tell.
    """

    num_tokens: int
    num_events: int
    wall_s: float
    cpu_s: float
    steady_cpu_s: float | None = None

    @property
    def cpu_us_a_token(self) -> float:
        """Microseconds of processor time; a million tokens take as many seconds."""
        return self.cpu_s / self.num_tokens * 1e6

    @property
    def tokens_per_s(self) -> float:
        """As they came."""
        return self.num_tokens / self.wall_s

    @property
    def tokens_per_core_s(self) -> float:
        """What a core of its own would stream: one over the CPU of a token."""
        return self.num_tokens / (self.steady_cpu_s or self.cpu_s)


def body(model: str, load: Load, *, marked: bool = False) -> bytes:
    """The JSON of every request of a round; `marked` lets the model say nothing but the mark."""
    fields: dict[str, object] = {
        "model": model,
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if marked:
        fields["logit_bias"] = {str(MARK_ID): 100}
    if load.chat:
        fields["messages"] = [{"role": "user", "content": "Count, please."}]
    else:
        fields["prompt"] = "Count, please."
    return msgspec.json.encode(fields)


def program_env(**values: str) -> dict[str, str]:
    """Our environment without settings of Rondo, and with these values."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | values
