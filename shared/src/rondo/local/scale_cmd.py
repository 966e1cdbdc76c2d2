"""`rondo scale`: carries a coordinator's scaling orders out with containers, until stopped."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from rondo.bus.tasks import end_task
from rondo.errors import RondoError
from rondo.local.arguments import whole
from rondo.local.status import connect
from rondo.scaling.agent import ScalingAgent
from rondo.scaling.compose import ComposeInstances, ComposeProject
from rondo.service import logs

log = logging.getLogger("rondo.scaling")

#: Containers may come and go by other hands; the agent's picture is never older than this.
REFRESH_S = 20.0

UntilSignal = Callable[[Callable[[asyncio.Event], Awaitable[None]]], Coroutine[Any, Any, None]]


def add_parser(commands: Any, until_signal: UntilSignal) -> None:
    """Adds the command; `until_signal` runs work with an event that is set when it must stop."""
    scale = commands.add_parser("scale", help="let a compose project's workers follow the load")
    scale.add_argument("--driver", choices=["compose"], default="compose")
    scale.add_argument(
        "--project-dir", type=Path, default=Path("deploy/compose"), help="folder of compose.yaml"
    )
    scale.add_argument("--service", default="worker", help="the service that is scaled")
    scale.add_argument("--model", required=True, metavar="NAME", help="name clients use")
    scale.add_argument("--most", type=whole(1), required=True, metavar="N", help="never run more")

    def run(args: argparse.Namespace) -> int:
        logs.setup("INFO")
        asyncio.run(until_signal(lambda stop: scale_until(args, stop)))
        return 0

    scale.set_defaults(run=run)


async def scale_until(args: argparse.Namespace, stop: asyncio.Event) -> None:
    """Follows the orders until `stop` is set.

    The bus is the one of NATS_URL, else the project's own.
    """
    project = ComposeProject(args.project_dir)
    driver = ComposeInstances(project, args.service)
    await driver.refresh()
    bus = await connect(os.environ.get("NATS_URL") or await project.bus_url())
    agent = ScalingAgent(bus, args.model, driver, args.most)
    refreshing = asyncio.create_task(_keep_fresh(driver))
    try:
        await agent.start()
        logs.info(log, "following", model=args.model, instances=list(driver.instance_ids))
        await stop.wait()
    finally:
        await agent.stop()
        await end_task(refreshing)
        await bus.close()


async def _keep_fresh(driver: ComposeInstances) -> None:
    while True:
        await asyncio.sleep(REFRESH_S)
        try:
            await driver.refresh()
        except RondoError as error:
            logs.warning(log, "docker_does_not_answer", error=str(error))
