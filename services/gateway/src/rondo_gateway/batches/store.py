"""Files of the batch API, as chunks in a bucket of JetStream.

JetStream has an object store; its Python client waits for ever for a chunk when the connection goes
away, and knows no write that only the first may do, which results of batches need.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from rondo.bus import subjects
from rondo.bus.protocol import Bus, KeyValue
from rondo.errors import CapacityError
from rondo.wire.messages import FileChunk, FileRecord

#: Well below what a bus takes (1 MiB by default), and enough for few round trips.
CHUNK_BYTES = 256 * 1024


class FileStore:
    """Files of all gateways of a cluster. A file is there once its record is.

    All methods raise BusUnavailable when the bus does not answer.

    Args:
        max_bytes: of all files together.
    """

    def __init__(self, bus: Bus, max_bytes: int) -> None:
        self._bus = bus
        self._max_bytes = max_bytes
        self._buckets: dict[str, KeyValue] = {}

    async def save(self, record: FileRecord, chunks: AsyncIterator[bytes]) -> FileRecord:
        """Writes a file; the record with its true sizes.

        Raises:
            CapacityError: the files together would be too large; nothing is kept.
        """
        room = self._max_bytes - sum(one.num_bytes for one in await self.list_files())
        size = count = 0
        try:
            async for data in chunks:
                size += len(data)
                if size > room:
                    problem = f"Files may take {self._max_bytes} bytes together; delete some."
                    raise CapacityError("files_full", problem, None)
                await self.put_chunk(record.file_id, count, data)
                count += 1
            return await self.finish(record, size, count)
        except BaseException:
            await self.drop_chunks(record.file_id, count + 1)
            raise

    async def finish(self, record: FileRecord, num_bytes: int, num_chunks: int) -> FileRecord:
        """Makes a file of chunks that are there."""
        record = msgspec.structs.replace(record, num_bytes=num_bytes, num_chunks=num_chunks)
        await (await self._records()).put(record.file_id, record)
        return record

    async def find(self, file_id: str) -> FileRecord | None:
        """A file's record; None when there is no such file."""
        try:
            subjects.check_id(file_id)
        except ValueError:
            return None
        entry = await (await self._records()).get(file_id)
        return entry.value if entry and isinstance(entry.value, FileRecord) else None

    async def list_files(self) -> list[FileRecord]:
        """All files, the newest first."""
        found = (await (await self._records()).snapshot()).values()
        records = [entry.value for entry in found if isinstance(entry.value, FileRecord)]
        return sorted(records, key=lambda one: (-one.created_at, one.file_id))

    async def read(self, record: FileRecord) -> AsyncIterator[bytes]:
        """A file's bytes, chunk by chunk."""
        for index in range(record.num_chunks):
            data = await self.get_chunk(record.file_id, index)
            if data is None:  # deleted meanwhile
                return
            yield data

    async def delete(self, record: FileRecord) -> None:
        """Removes a file: nobody finds it any more, then it takes no room any more."""
        await (await self._records()).delete(record.file_id)
        await self.drop_chunks(record.file_id, record.num_chunks)

    async def put_chunk(self, name: str, index: int, data: bytes) -> None:
        """Writes a chunk, whatever was there."""
        await (await self._chunks()).put(_key(name, index), FileChunk(data=data))

    async def create_chunk(self, name: str, index: int, data: bytes) -> None:
        """Writes a chunk.

        Raises:
            RevisionConflict: there is one of this number.
        """
        await (await self._chunks()).create(_key(name, index), FileChunk(data=data))

    async def get_chunk(self, name: str, index: int) -> bytes | None:
        """A chunk's bytes; None when it is not there."""
        entry = await (await self._chunks()).get(_key(name, index))
        return entry.value.data if entry and isinstance(entry.value, FileChunk) else None

    async def drop_chunks(self, name: str, count: int) -> None:
        """Removes the first `count` chunks, those that are there."""
        for index in range(count):
            await self.drop_chunk(name, index)

    async def drop_chunk(self, name: str, index: int) -> None:
        """Removes a chunk, if it is there."""
        await (await self._chunks()).delete(_key(name, index))

    async def _records(self) -> KeyValue:
        return await self._open(subjects.FILES_BUCKET)

    async def _chunks(self) -> KeyValue:
        return await self._open(subjects.FILE_CHUNKS_BUCKET)

    async def _open(self, bucket: str) -> KeyValue:
        if bucket not in self._buckets:
            self._buckets[bucket] = await self._bus.key_value(bucket)
        return self._buckets[bucket]


def _key(name: str, index: int) -> str:
    return f"{name}_{index}"
