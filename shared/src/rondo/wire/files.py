"""Records of files and batches, for the gateways of a cluster.

`created_at` and `stamps` are Unix seconds that clients are shown; nothing is decided by them.
"""

from __future__ import annotations

from rondo.wire.base import Wire


class FileRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_files: a complete file; its bytes are `num_chunks` chunks."""

    file_id: str
    filename: str
    purpose: str
    num_bytes: int
    num_chunks: int
    created_at: int


class FileChunk(Wire, frozen=True, kw_only=True):
    """Bucket rondo_file_chunks: a part of a file, or of a batch's results."""

    data: bytes


class BatchProblem(Wire, frozen=True, kw_only=True):
    """Why an input file is refused; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_batches: a batch, and the gateway that works on it.

    `owner_id` is empty, or who renews the record: `beat` changes with each renewal. `age_s` is how
    long gateways have worked on it, and what its expiry is measured by.
    """

    batch_id: str
    endpoint: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    status: str
    created_at: int
    window_s: int
    metadata: dict[str, str] = {}
    stamps: dict[str, int] = {}
    problems: tuple[BatchProblem, ...] = ()
    num_lines: int = 0
    num_completed: int = 0
    num_failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    owner_id: str = ""
    beat: int = 0
    age_s: float = 0.0
