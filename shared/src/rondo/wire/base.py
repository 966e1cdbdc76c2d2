"""What all messages share.

Rules: durations travel, timestamps do not; a new field always has a default; token ids travel as
binary. Messages are frozen; msgspec checks types on decoding.
"""

from __future__ import annotations

import msgspec


class Wire(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all messages; the class name is the tag."""
