"""rondo-bench engines: tokens a second of torch, transformers and vLLM on the same model."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from rondo.errors import ConfigError
from rondo_bench.console import say
from rondo_bench.engines.compare import ENGINES, Options, Table, available_engines, compare
from rondo_bench.engines.shape import Shape

#: Faster and slower side of the ratios that a table ends with.
RATIOS = (
    ("torch", "transformers"),
    ("torch", "vllm"),
    ("vllm", "transformers"),
    ("vllm_phase", "vllm"),
)
#: Flags of x86 and Arm processors that multiply bfloat16 without unpacking it.
BF16_FLAGS = frozenset(("amx_bf16", "avx512_bf16", "bf16"))

NOTES = """\
`rondo-bench engines --write` writes this. All engines run the same model, a Llama with random
weights, on the same prompts; each has a process of its own and they take turns, case by case.

* `torch`: Rondo's own engine under Rondo's instance scheduler. Of a prompt's last layer it computes
  only what the first token needs.
* `transformers`: `AutoModelForCausalLM`, one padless batch, scaled-dot-product attention.
* `vllm`: vLLM in process with its own scheduler, not compiled, prefix cache off.
* `vllm_phase`: vLLM's model runner under Rondo's instance scheduler, otherwise as `vllm`.

prefill_N: one prompt of N tokens up to its first token. decode_bN: N requests with 128 tokens of
context (or as the name says), greedy, from the end of their prefill.
""".splitlines()


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "engines",
        help="tokens a second of each engine on the same 134 M model, in turns",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one object {engine: {case: speed}}")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="default: what is installed")
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many")
    parser.add_argument("--threads", type=int, default=2, help="of each engine")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of all engines; auto: bfloat16 where the processor multiplies it",
    )
    parser.add_argument("--write", type=Path, default=None, help="Markdown file to write, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}", "must be at least 1")
    options = Options(
        engines=tuple(dict.fromkeys(args.engines or available_engines())),
        dtype=native_dtype() if args.dtype == "auto" else args.dtype,
        rounds=args.rounds,
        threads=args.threads,
    )
    table, versions = compare(options, say)
    report = as_markdown(table, versions, options)
    print(json.dumps(table) if args.json else report)
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(report + "\n")
    return 0


def native_dtype() -> str:
    """bfloat16 if the processor has instructions for it, else float32."""
    info = Path("/proc/cpuinfo")
    words = frozenset(info.read_text().split()) if info.is_file() else frozenset[str]()
    return "bfloat16" if words & BF16_FLAGS else "float32"


def as_markdown(table: Table, versions: dict[str, str], options: Options) -> str:
    """The table, the ratios and how they came about."""
    cases = list(options.cases)
    shape: Shape = options.shape
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    rows = [_row(engine, [f"{table[engine][c]:.0f}" for c in cases]) for engine in table]
    ratios = [
        _row(f"{left} / {right}", [f"{table[left][c] / table[right][c]:.2f}" for c in cases])
        for left, right in RATIOS
        if left in table and right in table
    ]
    return "\n".join(
        [
            "# Engines",
            "",
            f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, "
            f"Python {platform.python_version()}, {named}; {shape.parameters / 1e6:.0f} M "
            f"parameters ({shape.layers} x {shape.hidden}, vocabulary {shape.vocabulary}), "
            f"{options.dtype}; tokens a second, medians of {options.rounds} rounds.",
            "",
            _row("engine", cases),
            _row("---", ["---:"] * len(cases)),
            *rows,
            *ratios,
            "",
            *NOTES,
        ]
    ).rstrip()


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"
