"""`rondo batch`: a file of requests in, a file of answers out, and how fast it goes meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from tqdm import tqdm

from rondo.errors import ConfigError
from rondo.local import run_dir as rd
from rondo.local.ask import ApiFailed, authorization, error_message

POLL_S = 0.5
#: How long the API may be away; the batch does not mind.
AWAY_S = 60.0
OVER = ("completed", "failed", "cancelled", "expired")
CHUNK_BYTES = 1 << 18


class _FirstLine(msgspec.Struct):
    url: str


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    batch = commands.add_parser("batch", parents=[common], help="answer a file of requests")
    batch.add_argument("input", type=Path, metavar="INPUT", help="JSONL, as for OpenAI's batches")
    batch.add_argument("output", type=Path, metavar="OUTPUT", help="where the answers go, as JSONL")
    batch.add_argument(
        "--errors", type=Path, metavar="FILE", help="where lines go that failed (OUTPUT.errors)"
    )
    batch.add_argument("--url", help="of the API (default: the cluster of the run folder)")
    batch.add_argument("--window", default="24h", help="how long it may take (24h)")
    batch.add_argument("--resume", metavar="BATCH", help="wait for this batch; INPUT is not sent")
    batch.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command: 0 when every line was answered, 1 when not, 130 after Ctrl-C."""
    _check_folders(args)
    url = args.url or rd.read_state(args.run_dir).api_url
    if not url.startswith(("http://", "https://")):
        raise ConfigError("--url", f"{url!r} does not begin with http:// or https://")
    try:
        return asyncio.run(_run(args, url.removesuffix("/").removesuffix("/v1")))
    except KeyboardInterrupt:
        return 130


async def _run(args: argparse.Namespace, url: str) -> int:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=300)
    async with aiohttp.ClientSession(url, headers=authorization(), timeout=timeout) as session:
        api = _Api(session)
        batch_id = args.resume or await _begin(api, args)
        try:
            batch = await _follow(api, batch_id)
        except asyncio.CancelledError:
            again = f"rondo batch {args.input} {args.output} --resume {batch_id}"
            print(f"\n{batch_id} goes on without us; to wait for it: {again}", file=sys.stderr)
            raise
        return await _collect(api, args, batch)


async def _begin(api: _Api, args: argparse.Namespace) -> str:
    endpoint = _endpoint(args.input)
    with args.input.open("rb") as file:
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", file, filename=args.input.name)
        uploaded = await api.call("POST", "/v1/files", data=form)
    body = {
        "input_file_id": uploaded["id"],
        "endpoint": endpoint,
        "completion_window": args.window,
    }
    return str((await api.call("POST", "/v1/batches", json=body))["id"])


def _check_folders(args: argparse.Namespace) -> None:
    """Answers that take hours must have a place to go to."""
    for name, path in (("OUTPUT", args.output), ("--errors", args.errors)):
        if path and (path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK)):
            raise ConfigError(name, f"{path} cannot be written")


def _endpoint(path: Path) -> str:
    """The URL of the first line; a batch has one for all."""
    try:
        with path.open("rb") as file:
            first = file.readline()
        if not first:
            raise ConfigError("INPUT", f"{path} is empty")
        return msgspec.json.decode(first, type=_FirstLine).url
    except OSError as error:
        raise ConfigError("INPUT", f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError("INPUT", f"{path}, line 1: {error}") from error


async def _follow(api: _Api, batch_id: str) -> dict[str, Any]:
    """The batch once it is over; shows how far it is."""
    with tqdm(unit=" lines", desc=batch_id[:14], dynamic_ncols=True) as bar:
        while True:
            batch = await api.patiently("GET", f"/v1/batches/{batch_id}")
            counts = batch["request_counts"]
            bar.total = counts["total"] or None
            bar.n = counts["completed"] + counts["failed"]
            elapsed_s = bar.format_dict["elapsed"] or 1.0
            rate = batch["usage"]["output_tokens"] / elapsed_s
            bar.set_postfix_str(f"{rate:,.0f} tokens/s, {counts['failed']} failed")
            if batch["status"] in OVER:
                return batch
            await asyncio.sleep(POLL_S)


async def _collect(api: _Api, args: argparse.Namespace, batch: dict[str, Any]) -> int:
    for problem in (batch["errors"] or {"data": []})["data"]:
        where = f"line {problem['line']}: " if problem["line"] else ""
        print(f"{args.input}: {where}{problem['message']}", file=sys.stderr)
    await api.download(batch["output_file_id"], args.output)
    counts = batch["request_counts"]
    print(f"{batch['status']}: {counts['completed']} of {counts['total']} lines in {args.output}")
    if counts["failed"]:
        errors = args.errors or args.output.with_name(f"{args.output.name}.errors")
        await api.download(batch["error_file_id"], errors)
        print(f"{counts['failed']} lines failed: {errors}")
    return int(batch["status"] != "completed" or counts["failed"] > 0)


class _Api:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """The answer's object.

        Raises:
            ApiFailed: the API refused.
        """
        async with self._session.request(method, path, **body) as response:
            if response.status != 200:
                raise ApiFailed(response.status, error_message(await response.text()))
            return dict(await response.json())

    async def patiently(self, method: str, path: str) -> dict[str, Any]:
        """The same, however often the API is away for a moment."""
        for _ in range(int(AWAY_S / POLL_S)):
            try:
                return await self.call(method, path)
            except ApiFailed as error:
                if error.status < 500:
                    raise
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_S)
        return await self.call(method, path)

    async def download(self, file_id: str | None, path: Path) -> None:
        """Writes a file, complete or not at all; an empty one when there is none."""
        part = path.with_name(f"{path.name}.part")
        with part.open("wb") as file:
            if file_id is not None:
                async with self._session.get(f"/v1/files/{file_id}/content") as response:
                    if response.status != 200:
                        raise ApiFailed(response.status, error_message(await response.text()))
                    async for data in response.content.iter_chunked(CHUNK_BYTES):
                        file.write(data)
        part.replace(path)
