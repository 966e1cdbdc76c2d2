"""Where the time of an answer went: the ledger that a client may ask for.

All figures are durations in milliseconds. The gateway's are of its own clock, `wait_ms` and
`prefill_ms` are the worker's; what neither of them accounts for before the first token, the bus and
the services, is `bus_ms`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rondo.metrics.lifecycle import Lifecycle
from rondo.wire.messages import FirstToken


def ledger_of(
    times: Lifecycle, submitted_s: float | None, first: FirstToken | None
) -> dict[str, float]:
    """The ledger of one answer, as far as it has come."""
    ledger: dict[str, float] = {}
    if submitted_s is not None:
        ledger["gateway_ms"] = _ms(submitted_s - times.arrival_s)
        if times.admitted_s is not None:
            ledger["queue_ms"] = _ms(times.admitted_s - submitted_s)
    if times.first_token_s is None:
        return ledger
    if first is not None and times.admitted_s is not None:
        ledger["wait_ms"] = _ms(first.waited_s)
        ledger["prefill_ms"] = _ms(first.prefill_s)
        worked_s = first.waited_s + first.prefill_s
        ledger["bus_ms"] = _ms(times.first_token_s - times.admitted_s - worked_s)
    ledger["ttft_ms"] = _ms(times.first_token_s - times.arrival_s)
    if times.last_token_s is not None:
        ledger["decode_ms"] = _ms(times.last_token_s - times.first_token_s)
    if times.tpot_s is not None:
        ledger["tpot_ms"] = _ms(times.tpot_s)
    return ledger


def slowest(ledgers: Sequence[dict[str, float]]) -> dict[str, float]:
    """The largest figures of several answers."""
    keys = dict.fromkeys(key for ledger in ledgers for key in ledger)
    return {key: max(ledger.get(key, 0.0) for ledger in ledgers) for key in keys}


def server_timing(ledger: dict[str, float]) -> str:
    """The value of a Server-Timing header (W3C)."""
    return ", ".join(f"{key.removesuffix('_ms')};dur={value:g}" for key, value in ledger.items())


def _ms(duration_s: float) -> float:
    return round(max(0.0, duration_s) * 1000, 3)
