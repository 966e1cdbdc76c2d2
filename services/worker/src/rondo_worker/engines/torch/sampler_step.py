"""From a step's logits to its tokens: sampling, grammars and logprobs of all its requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rondo.logprobs import Logprobs
from rondo.policy.plan import PlanItem, StepPlan
from rondo_worker.engines.base import NO_LOGPROBS, EngineRequest, EngineSpec, StepLogprobs
from rondo_worker.engines.grammar import GrammarTable
from rondo_worker.engines.sequences import LiveSequence
from rondo_worker.engines.torch.sampler import sample
from rondo_worker.engines.torch.sampler_adjust import Allowed, Draw
from rondo_worker.engines.torch.sampler_logprobs import pack_each, pack_rows
from rondo_worker.engines.torch.transfer import to_device


@dataclass(slots=True)
class Line:
    """A sequence of the step and its rows of the logits, `first .. end`. `done`: the last one is
    of its last token, so the next one is drawn."""

    item: PlanItem
    row: LiveSequence
    first: int
    end: int
    done: bool


class StepSampler:
    """Draws the tokens of an engine's steps.

    Args:
        spec: the engine's. folder: the model's, for the vocabulary of grammars.
    """

    def __init__(self, spec: EngineSpec, folder: Path) -> None:
        self._eos = spec.eos_token_ids
        self._grammars = GrammarTable(folder, spec.vocab_size, spec.eos_token_ids)
        self._prompts: dict[str, Logprobs] = {}  # until an answer begins, for steps that run again
        self._logprobs = NO_LOGPROBS

    def add(self, request: EngineRequest) -> None:
        """Makes a request known.

        Raises:
            UnsupportedRequest: its grammar cannot be followed.
        """
        self._grammars.add(request)

    def remove(self, request_id: str) -> None:
        """Forgets a request; unknown ids are ignored."""
        self._grammars.remove(request_id)
        self._prompts.pop(request_id, None)

    def clear(self) -> None:
        """Forgets all requests."""
        self._grammars.clear()
        self._prompts.clear()

    def take_logprobs(self) -> StepLogprobs:
        """See `Engine.take_logprobs`."""
        taken, self._logprobs = self._logprobs, NO_LOGPROBS
        return taken

    def choose(
        self, plan: StepPlan, rows: Sequence[LiveSequence], logits: torch.Tensor
    ) -> tuple[dict[str, int], torch.Tensor]:
        """The next token of each completed sequence, and those sequences' rows of `logits`.

        Args:
            logits: [rows, vocabulary], the rows that `BatchBuilder` selects for this plan.
        """
        if self._prompts:
            self._forget_prompts(plan, rows)
        if any(row.scores_prompt for row in rows):
            done, logits = self._score_prompts(plan, rows, logits)
        else:
            done = [
                (item.request_id, row)
                for item, row in zip(plan.items, rows, strict=True)
                if item.start + item.num_tokens == len(row.tokens)
            ]
        if not done:
            self._logprobs = NO_LOGPROBS
            return {}, logits[:0]
        ids = [request_id for request_id, _ in done]
        tokens = sample(logits, [self._draw(row) for _, row in done], self._allowed(done))
        self._logprobs = self._collect(done, logits, tokens)
        return dict(zip(ids, tokens.tolist(), strict=True)), logits

    def _forget_prompts(self, plan: StepPlan, rows: Sequence[LiveSequence]) -> None:
        """Of answers that have begun."""
        for item, row in zip(plan.items, rows, strict=True):
            if not row.fresh:
                self._prompts.pop(item.request_id, None)

    def _score_prompts(
        self, plan: StepPlan, rows: Sequence[LiveSequence], logits: torch.Tensor
    ) -> tuple[list[tuple[str, LiveSequence]], torch.Tensor]:
        """Keeps the logprobs of prompts; returns who is complete, and their rows of the logits."""
        lines = lines_of(plan, rows)
        for line in lines:
            if line.row.scores_prompt:
                self._score(line, logits)
        done = [line for line in lines if line.done]
        last = to_device([line.end - 1 for line in done], logits.device, torch.long)
        return [(line.item.request_id, line.row) for line in done], logits[last]

    def _draw(self, row: LiveSequence) -> Draw:
        sampling, index = row.request.sampling, row.num_output
        banned: tuple[int, ...] = ()
        # A grammar says itself when its text may end.
        if sampling.min_tokens > index and not sampling.grammar:
            banned = (*self._eos, *sampling.stop_token_ids)
        return Draw(sampling, index, row.output_counts, row.tokens, banned)

    def _allowed(self, done: Sequence[tuple[str, LiveSequence]]) -> Allowed | None:
        if not self._grammars:
            return None
        rows = [index for index, (request_id, _) in enumerate(done) if request_id in self._grammars]
        if not rows:
            return None
        return Allowed(rows, self._grammars.mask([done[row] for row in rows]))

    def _score(self, line: Line, logits: torch.Tensor) -> None:
        """Keeps the logprobs of the prompt's tokens that this chunk's rows foretell."""
        row, start = line.row, line.item.start
        count = min(line.end - line.first, row.own_prompt_tokens - 1 - start)
        if count > 0:
            begin = start + 1
            tokens = to_device(row.tokens[begin : begin + count], logits.device)
            part = logits[line.first : line.first + count]
            packed = pack_rows(part, tokens, row.request.sampling.prompt_logprobs or 0)
            before = self._prompts.get(line.item.request_id)
            if start and before is not None:  # a prefill that starts over replaces what it repeats
                packed = Logprobs.join((before.part(0, start), packed))
            self._prompts[line.item.request_id] = packed

    def _collect(
        self,
        done: Sequence[tuple[str, LiveSequence]],
        logits: torch.Tensor,
        tokens: torch.Tensor,
    ) -> StepLogprobs:
        wanted = [
            (index, top)
            for index, (_, row) in enumerate(done)
            if (top := row.request.sampling.logprobs) is not None
        ]
        prompts = {}
        if self._prompts:
            prompts = {r: self._prompts[r] for r, _ in done if r in self._prompts}
        if not wanted:
            return StepLogprobs({}, prompts) if prompts else NO_LOGPROBS
        packed = pack_each(logits, tokens, wanted)
        ids = [done[index][0] for index, _ in wanted]
        return StepLogprobs(dict(zip(ids, packed, strict=True)), prompts)


def lines_of(plan: StepPlan, rows: Sequence[LiveSequence]) -> list[Line]:
    """Where each sequence's rows of the logits are; as `BatchBuilder` selects them."""
    lines = []
    first = 0
    for number, (item, row) in enumerate(zip(plan.items, rows, strict=True)):
        done = item.start + item.num_tokens == len(row.tokens)
        whole = number < len(plan.chunks) and row.scores_prompt
        end = first + (item.num_tokens if whole else int(done))
        lines.append(Line(item, row, first, end, done))
        first = end
    return lines
