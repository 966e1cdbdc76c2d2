"""What one HTTP connection may take, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes a second that a long body must come with on average.
MIN_BODY_RATE = 16 * 1024


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """See the module.

    Attributes:
        idle_s: without a byte of a request; then the connection is closed without a word.
        head_s: from a request's first byte to the end of its headers; then 408.
        body_s: from there to the end of its body; then 408. What has come earns it more time, as
            much as it would take at MIN_BODY_RATE.
        head_bytes: request line and headers; more is a 431.
        headers: lines of them; more is a 431.
        connections: at once. One more closes the one that has been without a request the longest;
            if all are being answered, it is refused with a 503.
    """

    idle_s: float = 75.0
    head_s: float = 10.0
    body_s: float = 60.0
    head_bytes: int = 32 * 1024
    headers: int = 100
    connections: int = 16_384
