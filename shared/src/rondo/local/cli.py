"""The command line: what `rondo --help` lists."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import aiohttp
import msgspec

from rondo.errors import ConfigError, RondoError
from rondo.local import batch_cmd, keys_cmd, restart_cmd, scale_cmd, secrets_cmd, up_cmd
from rondo.local import run_dir as rd
from rondo.local.ask import ask
from rondo.local.control import list_programs
from rondo.local.status import as_json, as_table, cluster_status, follow_events
from rondo.service import logs

DOWN_TIMEOUT_S = 30.0


def main() -> int:
    """Entry point; 0 on success, 1 when something failed, 2 for a wrong option."""
    args = _parser().parse_args()
    logs.setup("WARNING")
    try:
        code: int = args.run(args)
    except ConfigError as error:
        print(f"rondo: {error}", file=sys.stderr)
        return 2
    except RondoError as error:
        print(f"rondo: {error}", file=sys.stderr)
        return 1
    except aiohttp.ClientError as error:
        print(f"rondo: the API cannot be reached: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"rondo: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rondo", description="Run a Rondo cluster locally.")
    parser.add_argument("--version", action="version", version=f"rondo {version('rondo')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--run-dir", type=Path, default=Path(rd.DEFAULT), help=f"run folder (default {rd.DEFAULT})"
    )
    up_cmd.add_parser(commands, common, _until_signal)
    status = commands.add_parser("status", parents=[common], help="show every instance")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=_status)
    events = commands.add_parser("events", parents=[common], help="follow decisions as they happen")
    events.set_defaults(run=_events)
    question = commands.add_parser("ask", parents=[common], help="ask the model a question")
    question.add_argument("question")
    question.set_defaults(run=_ask)
    down = commands.add_parser("down", parents=[common], help="stop the cluster")
    down.set_defaults(run=_down)
    restart_cmd.add_parser(commands, common)
    scale_cmd.add_parser(commands, _until_signal)
    batch_cmd.add_parser(commands, common)
    keys_cmd.add_parser(commands)
    secrets_cmd.add_parser(commands)
    return parser


def _status(args: argparse.Namespace) -> int:
    state = rd.read_state(args.run_dir)
    replies = asyncio.run(cluster_status(state.nats_url))
    programs = asyncio.run(list_programs(args.run_dir))
    if args.json:
        status = msgspec.json.decode(as_json(replies))
        print(msgspec.json.encode({**status, "programs": programs}).decode())
    else:
        print(f"{as_table(replies)}\n\n{restart_cmd.programs_table(programs)}")
    return 0


def _events(args: argparse.Namespace) -> int:
    state = rd.read_state(args.run_dir)
    asyncio.run(_until_signal(lambda stop: follow_events(state.nats_url, stop)))
    return 0


def _ask(args: argparse.Namespace) -> int:
    state = rd.read_state(args.run_dir)
    asyncio.run(ask(state.api_url, state.model, args.question))
    return 0


def _down(args: argparse.Namespace) -> int:
    state = rd.read_state(args.run_dir)
    os.kill(state.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + DOWN_TIMEOUT_S
    while rd.is_running(args.run_dir, state):
        if time.monotonic() > deadline_s:
            print(f"rondo: pid {state.pid} is still there", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("stopped")
    return 0


async def _until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await work(stop)


if __name__ == "__main__":
    sys.exit(main())
