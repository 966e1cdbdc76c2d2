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
from typing import Any

import aiohttp
import msgspec

from rondo.errors import ConfigError, RondoError
from rondo.local import arguments, batch_cmd, keys_cmd, restart_cmd, scale_cmd, secrets_cmd
from rondo.local import run_dir as rd
from rondo.local.ask import ask
from rondo.local.control import list_programs
from rondo.local.launcher import LocalCluster
from rondo.local.programs import READY_TIMEOUT_S, UpOptions
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
    _add_up(commands, common)
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


def _add_up(commands: Any, common: argparse.ArgumentParser) -> None:
    up = commands.add_parser("up", parents=[common], help="start a cluster, stay in foreground")
    up.add_argument(
        "--engine",
        choices=["torch", "pipeline", "vllm", "emulated"],
        default="torch",
        help="what computes; emulated needs no GPU and answers with made-up text (torch)",
    )
    up.add_argument(
        "--model", metavar="PATH", help="Hugging Face folder, or name in its cache (rondo-tiny)"
    )
    up.add_argument("--model-name", metavar="NAME", help="name clients use (the model's own)")
    count = arguments.count
    up.add_argument("--workers", type=count, default=2, metavar="N", help="one engine each (2)")
    up.add_argument(
        "--scale",
        type=arguments.bounds,
        metavar="MIN:MAX",
        help="let the number of workers follow the load within these bounds",
    )
    up.add_argument(
        "--coordinators", type=count, default=2, metavar="N", help="all but one stand by (2)"
    )
    up.add_argument(
        "--gateways", type=count, default=1, metavar="N", help="they share the API's port (1)"
    )
    up.add_argument(
        "--port", type=arguments.port, default=8000, metavar="P", help="0 takes a free one (8000)"
    )
    up.add_argument("--profile", help="latency profile of the emulated engine: name or JSON file")
    up.add_argument("--ask", metavar="TEXT", help="ask this when ready")
    up.add_argument(
        "--ready-timeout",
        type=arguments.whole(1),
        default=READY_TIMEOUT_S,
        metavar="S",
        help=f"how long models may take to load ({READY_TIMEOUT_S})",
    )
    up.set_defaults(run=_up)


def _up(args: argparse.Namespace) -> int:
    if os.environ.get("RONDO_HTTP_TLS_CERT"):
        raise ConfigError("RONDO_HTTP_TLS_CERT", "a cluster of `rondo up` is reached without TLS")
    options = UpOptions(
        engine=args.engine,
        workers=args.workers,
        model=args.model,
        model_name=args.model_name,
        port=args.port,
        run_dir=args.run_dir,
        profile=args.profile,
        question=args.ask,
        scale=args.scale,
        coordinators=args.coordinators,
        gateways=args.gateways,
        ready_timeout_s=args.ready_timeout,
    )
    asyncio.run(_until_signal(LocalCluster(options).run))
    return 0


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
