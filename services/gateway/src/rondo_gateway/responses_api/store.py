"""Responses that a later request may refer to, in a bucket of JetStream that cannot grow.

A response is kept in one of a fixed number of places, by its id; the next one there takes its
place. So the bucket holds the last few thousand responses, none for certain, of bounded size each.
"""

from __future__ import annotations

import logging
import zlib
from typing import Any

import msgspec

from rondo.bus import subjects
from rondo.bus.protocol import Bus, KeyValue
from rondo.errors import RondoError
from rondo.service import logs
from rondo.wire.messages import StoredResponse

log = logging.getLogger("rondo.gateway")

NUM_PLACES = 4096
#: Larger responses, with all that came before them, are not kept.
MAX_BYTES = 128 * 1024


class ResponseStore:
    """Stored responses of all gateways of a cluster."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket: KeyValue | None = None

    async def save(self, response: dict[str, Any], items: list[dict[str, Any]]) -> None:
        """Keeps a response and the items of the conversation up to its end, if it can."""
        data = msgspec.json.encode({"response": response, "items": items})
        response_id = str(response["id"])
        if len(data) > MAX_BYTES:
            logs.info(log, "response_not_stored", response=response_id, bytes=len(data))
            return
        try:
            bucket = await self._open()
            await bucket.put(
                _place(response_id), StoredResponse(response_id=response_id, data=data)
            )
        except RondoError as error:
            logs.warning(log, "response_not_stored", response=response_id, error=str(error))

    async def load(self, response_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """A response and its conversation; None when it is not there any more.

        Raises:
            BusUnavailable: nobody knows.
        """
        entry = await (await self._open()).get(_place(response_id))
        stored = entry.value if entry else None
        if not isinstance(stored, StoredResponse) or stored.response_id != response_id:
            return None
        content = msgspec.json.decode(stored.data)
        return content["response"], content["items"]

    async def delete(self, response_id: str) -> bool:
        """Forgets a response; whether it was there.

        Raises:
            BusUnavailable: nobody knows.
        """
        if await self.load(response_id) is None:
            return False
        await (await self._open()).delete(_place(response_id))
        return True

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            self._bucket = await self._bus.key_value(subjects.RESPONSES_BUCKET)
        return self._bucket


def _place(response_id: str) -> str:
    return f"p{zlib.crc32(response_id.encode()) % NUM_PLACES}"
