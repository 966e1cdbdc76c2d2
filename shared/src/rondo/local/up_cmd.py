"""`rondo up`: its options, and the cluster that they describe, until a signal comes."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

from rondo.errors import ConfigError
from rondo.local.arguments import bounds, count, port, whole
from rondo.local.launcher import LocalCluster
from rondo.local.programs import HOST, READY_TIMEOUT_S, UpOptions
from rondo.local.scale_cmd import UntilSignal


def add_parser(commands: Any, common: argparse.ArgumentParser, until_signal: UntilSignal) -> None:
    """Adds the command; `until_signal` runs work with an event that is set when it must stop."""
    up = commands.add_parser("up", parents=[common], help="start a cluster, stay in foreground")
    _add_model(up)
    _add_sizes(up)
    up.add_argument(
        "--host",
        default=HOST,
        metavar="ADDRESS",
        help=f"where the API listens; 0.0.0.0 lets others in, who need keys ({HOST})",
    )
    up.add_argument("--port", type=port, default=8000, metavar="P", help="0: a free one (8000)")
    up.add_argument("--ask", metavar="TEXT", help="ask this when ready")

    def run(args: argparse.Namespace) -> int:
        if os.environ.get("RONDO_HTTP_TLS_CERT"):
            raise ConfigError(
                "RONDO_HTTP_TLS_CERT", "a cluster of `rondo up` is reached without TLS"
            )
        asyncio.run(until_signal(LocalCluster(_options(args)).run))
        return 0

    up.set_defaults(run=run)


def _add_model(up: argparse.ArgumentParser) -> None:
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
    up.add_argument("--profile", help="latency profile of the emulated engine: name or JSON file")
    up.add_argument(
        "--ready-timeout",
        type=whole(1),
        default=READY_TIMEOUT_S,
        metavar="S",
        help=f"how long models may take to load ({READY_TIMEOUT_S})",
    )


def _add_sizes(up: argparse.ArgumentParser) -> None:
    up.add_argument("--workers", type=count, default=2, metavar="N", help="one engine each (2)")
    up.add_argument(
        "--scale",
        type=bounds,
        metavar="MIN:MAX",
        help="let the number of workers follow the load within these bounds",
    )
    up.add_argument(
        "--coordinators", type=count, default=2, metavar="N", help="all but one stand by (2)"
    )
    up.add_argument(
        "--gateways", type=count, default=1, metavar="N", help="they share the API's port (1)"
    )


def _options(args: argparse.Namespace) -> UpOptions:
    return UpOptions(
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
        host=args.host,
        ready_timeout_s=args.ready_timeout,
    )
