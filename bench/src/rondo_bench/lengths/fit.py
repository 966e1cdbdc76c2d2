"""Trains the predictor of answer lengths, in torch; the only module of the benchmarks to do so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from rondo.errors import ConfigError
from rondo.lengths import features
from rondo.lengths.classes import LengthClasses
from rondo.lengths.model import Floats, LengthModel, LengthNet, uncalibrated
from rondo.lengths.records import LengthRecord
from rondo_bench.lengths.calibrate import calibrated

#: One answer in so many is kept out of the training: it chooses the epoch, and calibrates.
KEPT_OUT = 5
MIN_RECORDS = 200
#: A short log is gone through more often: from fewer steps nothing is learned.
MIN_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to train. Sizes as in `LengthNet`; `orders` and `recent` as in `features.bags`."""

    num_classes: int = 32
    orders: int = 2
    recent: int = 64
    num_buckets: int = 16_384
    width: int = 16
    num_hidden: int = 64
    epochs: int = 20
    min_steps: int = MIN_STEPS
    batch: int = 128
    learning_rate: float = 5e-3
    weight_decay: float = 0.05
    dropout: float = 0.1
    num_threads: int = 1
    seed: int = 1


class Network(nn.Module):
    """What `LengthNet` computes, for batches and with gradients."""

    def __init__(self, options: FitOptions, num_classes: int) -> None:
        super().__init__()
        size = (features.NUM_BAGS, options.num_buckets, options.width)
        self.embedding = nn.Parameter(torch.randn(size) * 0.1)
        num_inputs = features.NUM_BAGS * options.width + features.NUM_NUMBERS
        self.hidden = nn.Linear(num_inputs, options.num_hidden)
        self.output = nn.Linear(options.num_hidden, num_classes)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, bags: Sequence[tuple[Tensor, Tensor]], numbers: Tensor) -> Tensor:
        """Logits [batch, K]; `bags` are buckets and offsets, `numbers` scaled, [batch, 2]."""
        inputs = []
        for rows, (buckets, offsets) in zip(self.embedding, bags, strict=True):
            counts = torch.diff(offsets, append=torch.tensor([len(buckets)]))
            summed = embedding_bag(buckets, rows, offsets, mode="sum")
            inputs.append(summed / counts.sqrt().unsqueeze(1))
        inner = torch.relu(self.hidden(torch.cat([*inputs, numbers], dim=1)))
        return self.output(self.dropout(inner))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Rows:
    """Records as the network takes them: buckets, scaled numbers [n, 2], and what is true.

    `first` [n] is the class of the answer, or the first that a cut answer may be of; `cut` [n].
    """

    buckets: list[list[features.Buckets]]
    numbers: Tensor
    first: Tensor
    cut: Tensor

    def batch(self, chosen: Sequence[int]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """The network's arguments for some rows."""
        bags = []
        for bag in range(features.NUM_BAGS):
            parts = [self.buckets[row][bag] for row in chosen]
            offsets = np.cumsum([0, *(len(part) for part in parts[:-1])])
            bags.append((torch.from_numpy(np.concatenate(parts)), torch.from_numpy(offsets)))
        return bags, self.numbers[torch.tensor(chosen)]

    def loss(self, logits: Tensor, chosen: Sequence[int]) -> Tensor:
        """Mean negative log-likelihood; of a cut answer, that it is at least as long."""
        index = torch.tensor(chosen)
        first, cut = self.first[index].unsqueeze(1), self.cut[index].unsqueeze(1)
        classes = torch.arange(logits.shape[1])
        possible = torch.where(cut, classes >= first, classes == first)
        log_odds = logits.log_softmax(dim=1).masked_fill(~possible, -math.inf)
        return -log_odds.logsumexp(dim=1).mean()


def fit(
    records: Sequence[LengthRecord], options: FitOptions, say: Callable[[str], None]
) -> LengthModel:
    """Trains and calibrates a predictor. The same records and options give the same predictor.

    Raises:
        ConfigError: there are too few answers that ended by themselves.
    """
    ended = [record.output for record in records if record.finish == "stop"]
    if len(ended) < MIN_RECORDS:
        problem = f"has {len(ended)} answers that ended by themselves; {MIN_RECORDS} are needed"
        raise ConfigError("the log", problem)
    order = np.random.default_rng(options.seed).permutation(len(records)).tolist()
    kept_out = [records[row] for row in order[::KEPT_OUT]]
    used = [records[row] for place, row in enumerate(order) if place % KEPT_OUT]
    classes = LengthClasses.of(ended, options.num_classes)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.num_threads)
    network = Network(options, len(classes))
    scales = _scales(used)
    model = _model(network, classes, scales, options)
    _train(network, _rows(model, used), _rows(model, kept_out), options, say)
    return calibrated(_model(network, classes, scales, options), kept_out)


def _scales(records: Sequence[LengthRecord]) -> Floats:
    found = np.stack([features.numbers(len(r.prompt), r.max_tokens) for r in records])
    deviation = np.maximum(found.std(axis=0), 1e-3)
    return np.stack([found.mean(axis=0), deviation, found.min(axis=0), found.max(axis=0)])


def _rows(model: LengthModel, records: Sequence[LengthRecord]) -> Rows:
    mean, deviation, least, most = model.net.scales
    numbers = np.stack([features.numbers(len(r.prompt), r.max_tokens) for r in records])
    cut = [record.finish == "length" for record in records]
    first = [model.classes.index(r.output + (r.finish == "length")) for r in records]
    return Rows(
        [model.buckets(record.prompt) for record in records],
        torch.from_numpy((np.clip(numbers, least, most) - mean) / deviation),
        torch.tensor(first),
        torch.tensor(cut),
    )


def _train(
    network: Network, used: Rows, kept_out: Rows, options: FitOptions, say: Callable[[str], None]
) -> None:
    """Leaves the network as it was after the epoch that was best on what was kept out."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    epoch_steps = math.ceil(len(used.first) / options.batch)
    num_epochs = max(options.epochs, math.ceil(options.min_steps / epoch_steps))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.learning_rate, total_steps=num_epochs * epoch_steps
    )
    best, least = network.state_dict(), math.inf
    for epoch in range(1, num_epochs + 1):
        network.train()
        for chosen in _batches(len(used.first), options.batch):
            optimizer.zero_grad()
            used.loss(network(*used.batch(chosen)), chosen).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        everything = list(range(len(kept_out.first)))
        with torch.inference_mode():
            network.eval()
            loss = float(kept_out.loss(network(*kept_out.batch(everything)), everything))
        say(f"epoch {epoch:2}: loss {loss:.4f} on what was kept out")
        if loss < least:
            least = loss
            best = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)


def _batches(num_rows: int, size: int) -> Iterator[list[int]]:
    order = torch.randperm(num_rows).tolist()
    for start in range(0, num_rows, size):
        yield order[start : start + size]


def _model(
    network: Network,
    classes: LengthClasses,
    scales: Floats,
    options: FitOptions,
) -> LengthModel:
    weights = {
        "embedding": network.embedding.half().float(),  # as the file will have them
        "hidden": network.hidden.weight,
        "hidden_bias": network.hidden.bias,
        "output": network.output.weight,
        "output_bias": network.output.bias,
    }
    arrays = {name: value.detach().numpy().copy() for name, value in weights.items()}
    return LengthModel(
        net=LengthNet(**arrays, scales=scales),
        classes=classes,
        calibration=uncalibrated(),
        orders=options.orders,
        recent=options.recent,
    )
