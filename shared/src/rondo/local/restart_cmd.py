"""`rondo restart`, and the programs in `rondo status`: commands to the launcher of a cluster."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from typing import Any

from rondo.local.control import Program, Progress, Restart, command


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    text = "replace running programs, one after the other, unseen by clients"
    parser = commands.add_parser("restart", parents=[common], help=text, description=text)
    parser.add_argument(
        "what",
        nargs="?",
        default="all",
        help="coordinator, gateway, worker, all (the default), or one program's name",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Has it done, and prints each step."""
    asyncio.run(_follow(args))
    return 0


async def _follow(args: argparse.Namespace) -> None:
    async for reply in command(args.run_dir, Restart(args.what)):
        if isinstance(reply, Progress):
            print(reply.text, flush=True)


def programs_table(programs: Iterable[Program]) -> str:
    """For people."""
    lines = [f"  {'program':24} {'pid':>8} {'port':>6}"]
    lines.extend(
        f"  {one.name:24} {one.pid or '-':>8} {one.port or '-':>6}  {_state(one)}"
        for one in programs
    )
    return "\n".join(lines)


def _state(program: Program) -> str:
    if program.pid is None:
        return "down"
    return "ready" if program.ready else "not ready"
