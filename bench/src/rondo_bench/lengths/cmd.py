"""rondo-bench lengths: train the predictor of answer lengths on a log, and judge it on another."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rondo.errors import ConfigError
from rondo.lengths import model_file
from rondo.lengths.records import of_one_model, read_log
from rondo_bench.console import positive
from rondo_bench.lengths import judge
from rondo_bench.sim.lengths import load_lengths

#: Of a length file every other row is learned from, and the others are predicted.
HALVES = 2


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser("lengths", help="train and judge the predictor of answer lengths")
    parts = parser.add_subparsers(required=True, metavar="COMMAND")
    train = parts.add_parser(
        "train",
        help="train a predictor on a log of RONDO_RECORD_LENGTHS",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument("log", type=Path, help="JSON lines")
    train.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    train.add_argument("--model", default=None, help="name, if the log has several models")
    train.add_argument("--classes", type=positive, default=32, help="of lengths, at most")
    train.add_argument("--orders", type=positive, default=2, help="longest run of tokens seen")
    train.add_argument("--recent", type=positive, default=64, help="tokens of the second bag")
    train.add_argument("--buckets", type=positive, default=16_384, help="of runs, in each bag")
    train.add_argument("--width", type=positive, default=16, help="of a bucket's row")
    train.add_argument("--epochs", type=positive, default=20)
    train.add_argument("--threads", type=positive, default=1, help="of torch")
    train.add_argument("--seed", type=int, default=1)
    train.set_defaults(run=_train)
    evaluate = parts.add_parser("eval", help="errors, calibration and cost, as Markdown")
    evaluate.add_argument("log", type=Path, nargs="?", help="answers that it was not trained on")
    evaluate.add_argument("--predictor", type=Path, help="safetensors file")
    evaluate.add_argument("--known", type=Path, help="the log that its rivals learn from")
    evaluate.add_argument("--model", default=None, help="name, if the logs have several models")
    evaluate.add_argument(
        "--lengths", type=Path, nargs="+", default=[], help="CSV files of lengths without texts"
    )
    evaluate.add_argument("--write", type=Path, default=None, help="Markdown file to write, too")
    evaluate.set_defaults(run=_evaluate)


def _train(args: argparse.Namespace) -> int:
    if not find_spec("torch"):
        raise ConfigError("rondo-bench lengths train", "needs torch: install rondo-worker[torch]")
    from rondo_bench.lengths.fit import FitOptions, fit  # torch takes seconds

    records = of_one_model(read_log(args.log), args.model)
    options = FitOptions(
        num_classes=args.classes,
        orders=args.orders,
        recent=args.recent,
        num_buckets=args.buckets,
        width=args.width,
        epochs=args.epochs,
        num_threads=args.threads,
        seed=args.seed,
    )
    model = fit(records, options, print)
    notes = {"model": records[0].model, "answers": str(len(records))}
    model_file.save(model, args.out, notes)
    temperature = model.calibration.temperature
    print(f"{args.out}: {args.out.stat().st_size} bytes, {len(model.classes)} classes,", end=" ")
    print(f"{len(records)} answers, temperature {temperature:.2f}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    if bool(args.log) != bool(args.predictor) or bool(args.log) != bool(args.known):
        raise ConfigError("rondo-bench lengths eval", "LOG, --predictor and --known go together")
    if not args.log and not args.lengths:
        raise ConfigError("rondo-bench lengths eval", "give a LOG, or --lengths FILE")
    parts = [_judged(args)] if args.log else []
    parts += [_lengths_only(path) for path in args.lengths]
    page = "\n\n".join(parts)
    print(page)
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(page + "\n")
    return 0


def _judged(args: argparse.Namespace) -> str:
    model = model_file.load(args.predictor, "--predictor")
    records = of_one_model(read_log(args.log), args.model)
    known = judge.Known.of(of_one_model(read_log(args.known), args.model))
    found = judge.scores(model, known, records)
    shares = judge.coverage(model, records)
    cost_us = judge.cost_us(model)
    return "\n\n".join(
        (
            f"{len(records)} answers, mean {np.mean([r.output for r in records]):.1f} tokens.",
            _table(found),
            _row(
                "quantile",
                {f"{100 * share:g} %": f"{100 * shares[share]:.1f} %" for share in shares},
            ),
            _row("tokens of the prompt", {f"{n:,}": f"{cost_us[n]:.0f} µs" for n in cost_us}),
        )
    )


def _lengths_only(path: Path) -> str:
    """Rivals on real lengths; texts, and so our predictor's input, are not in such files."""
    table = load_lengths(path)
    prompts = table.prompt_tokens.astype(np.float64)
    outputs = table.output_tokens.astype(np.float64)
    rows = np.arange(len(outputs)) % HALVES == 1
    known = judge.Known(prompts[~rows], outputs[~rows])
    said = judge.rivals(known, prompts[rows], outputs[rows])
    if table.predicted_tokens is not None:
        said["the file's own prediction"] = table.predicted_tokens[rows].astype(np.float64)
    limits = np.full(int(rows.sum()), np.inf)
    found = {name: judge.Score.of(v, outputs[rows], limits) for name, v in said.items()}
    return f"{path.name}, mean {outputs[rows].mean():.1f} tokens.\n\n{_table(found)}"


def _table(found: Mapping[str, judge.Score]) -> str:
    lines = [
        "| | MAE, tokens | RMSE | bias | within 25 % | short at ×1.2 | surplus at ×1.2 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, score in found.items():
        lines.append(
            f"| {name} | {score.mae:.1f} | {score.rmse:.1f} | {score.bias:+.1f} "
            f"| {score.close:.1%} | {score.short:.1%} | {score.surplus:.0%} |"
        )
    return "\n".join(lines)


def _row(title: str, cells: Mapping[str, str]) -> str:
    head = f"| {title} | " + " | ".join(cells) + " |"
    return f"{head}\n|---|{'---:|' * len(cells)}\n| | " + " | ".join(cells.values()) + " |"
