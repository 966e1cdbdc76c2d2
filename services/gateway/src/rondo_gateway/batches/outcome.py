"""From a batch's log to its two files. Whoever does it, and however often, writes the same."""

from __future__ import annotations

from rondo.wire.messages import BatchRecord, FileRecord
from rondo_gateway.batches.record import OwnerLost
from rondo_gateway.batches.result_log import ResultLog
from rondo_gateway.batches.store import CHUNK_BYTES, FileStore


async def write_files(store: FileStore, results: ResultLog, record: BatchRecord) -> None:
    """Writes the output file and the error file, those that have a line.

    Raises:
        BusUnavailable: not complete; to be called again.
        OwnerLost: the log is gone, because another has written the files.
    """
    num_lines = 0
    at = record.stamps.get("in_progress_at", record.created_at)
    output = _FileWriter(store, _file(record.output_file_id, record.batch_id, "output", at))
    errors = _FileWriter(store, _file(record.error_file_id, record.batch_id, "error", at))
    async for part in results.chunks():
        num_lines += len(part)
        for result in part:
            await (output if result.ok else errors).add(result.line + b"\n")
    if num_lines < len(results.done):
        raise OwnerLost(f"batch {record.batch_id} has been written already")
    await output.close()
    await errors.close()


class _FileWriter:
    def __init__(self, store: FileStore, record: FileRecord) -> None:
        self._store = store
        self._record = record
        self._buffer = bytearray()
        self._num_bytes = self._num_chunks = 0

    async def add(self, line: bytes) -> None:
        if self._buffer and len(self._buffer) + len(line) > CHUNK_BYTES:
            await self._flush()
        self._buffer += line

    async def close(self) -> None:
        if self._buffer:
            await self._flush()
        if self._num_chunks:
            await self._store.finish(self._record, self._num_bytes, self._num_chunks)

    async def _flush(self) -> None:
        data = bytes(self._buffer)
        await self._store.put_chunk(self._record.file_id, self._num_chunks, data)
        self._num_bytes += len(data)
        self._num_chunks += 1
        self._buffer.clear()


def _file(file_id: str, batch_id: str, kind: str, created_at: int) -> FileRecord:
    return FileRecord(
        file_id=file_id,
        filename=f"{batch_id}_{kind}.jsonl",
        purpose="batch_output",
        num_bytes=0,
        num_chunks=0,
        created_at=created_at,
    )
