"""rondo-bench streaming: processor time of a streamed token, here and elsewhere."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import uvloop

from rondo.errors import ConfigError
from rondo_bench.console import say
from rondo_bench.streaming.compare import Options, as_json, as_markdown, compare

#: Where `make install-vllm` puts it.
VLLM_PYTHON = Path(".venv-vllm/bin/python")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "streaming",
        help="CPU of a streamed token: gateway, vLLM's API server, LiteLLM's proxy",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, metavar="N")
    add("--streams", type=int, default=128, metavar="N")
    add("--output-tokens", type=int, default=400, metavar="N", help="events of a stream")
    add("--vllm", type=Path, default=None, metavar="PYTHON", help="default: .venv-vllm's, if there")
    add("--no-vllm", action="store_true", help="leave vLLM out")
    add(
        "--litellm",
        type=Path,
        default=None,
        metavar="PYTHON",
        help="of a venv with litellm[proxy]; left out by default",
    )
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--write", type=Path, default=None, help="Markdown file to write, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    options = _options(args)
    found = uvloop.run(compare(options, say))
    report = as_markdown(found, options)
    print(json.dumps(as_json(found)) if args.json else report)
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(report + "\n")
    return 0


def _options(args: argparse.Namespace) -> Options:
    for name in ("rounds", "streams", "output_tokens"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}", "must be at least 1")
    vllm = args.vllm or (VLLM_PYTHON if VLLM_PYTHON.exists() else None)
    if args.no_vllm:
        vllm = None
    for option, python in (("--vllm", vllm), ("--litellm", args.litellm)):
        if python is not None and not python.exists():
            raise ConfigError(option, f"there is no {python}")
    return Options(
        rounds=args.rounds,
        num_streams=args.streams,
        output_tokens=args.output_tokens,
        vllm=vllm and vllm.absolute(),
        litellm=args.litellm and args.litellm.absolute(),
        command=_spelled(args),
    )


def _spelled(args: argparse.Namespace) -> str:
    sides = "" if not args.litellm else " --litellm PYTHON"
    shape = f"--rounds {args.rounds} --streams {args.streams} --output-tokens {args.output_tokens}"
    return f"rondo-bench streaming {shape}{sides}"
