"""Every kind of step of the torch engine against transformers, in float32 and bfloat16."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rondo.policy.plan import PlanItem, StepPlan, plan_of
from rondo.types import Phase
from rondo_worker.engines.torch import TorchEngine, linear
from tests.support.drive import answers, request
from tests.support.models import CONFIGS, save_model
from tests.support.reference import prompt, reference_logits

BLOCK_SIZE = 4
FAMILIES = ["llama", "mistral-window", "qwen2-window", "qwen3"]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Length of the difference over that of the expected vector."""
    return float((actual.float() - expected).norm() / expected.norm())


class ByHand:
    """Steps an engine over sequences whose blocks lie apart, and checks logits after each step."""

    def __init__(self, engine: TorchEngine, model: PreTrainedModel, names: str) -> None:
        self.engine = engine
        self.model = model
        self.errors: list[float] = []
        self.tokens = {n: list(prompt(23 + 9 * i, i)) for i, n in enumerate(names)}
        self.tables = {
            n: [*range(i + 1, engine.spec.num_blocks, len(names) + 1)] for i, n in enumerate(names)
        }
        for name, tokens in self.tokens.items():
            engine.add(request(name, tokens, 64))

    def item(self, name: str, start: int, end: int | None = None) -> PlanItem:
        end = len(self.tokens[name]) if end is None else end
        table = self.tables[name][: -(-end // BLOCK_SIZE)]
        return PlanItem(name, start, end - start, table)

    def decode(self, name: str) -> PlanItem:
        return self.item(name, len(self.tokens[name]) - 1)

    def step(self, chunks: list[PlanItem], decodes: list[PlanItem], relative: float | None) -> None:
        """One step; logits within 1e-4, or within `relative` of the reference's length."""
        phase = Phase.FUSED if chunks and decodes else Phase.PREFILL if chunks else Phase.DECODE
        plan = StepPlan(phase, chunks, len(decodes), list_decodes=lambda: decodes)
        if phase is not Phase.FUSED:
            plan = plan_of(phase, [*chunks, *decodes])
        new = self.engine.step(plan)
        done = [i.request_id for i in plan.items if i.start + i.num_tokens == self.known(i)]
        assert list(new) == done == list(self.engine.last_logits)
        for name, token in new.items():
            expected = reference_logits(self.model, self.tokens[name])[-1].float()
            actual = self.engine.last_logits[name].float()
            if relative is None:
                torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
                assert token == int(expected.argmax())
            else:
                self.errors.append(relative_error(actual, expected))
                assert self.errors[-1] < relative
            self.tokens[name].append(token)

    def known(self, item: PlanItem) -> int:
        return len(self.tokens[item.request_id])

    def all_kinds(self, relative: float | None = None) -> None:
        """Whole, packed and chunked prefill, fused steps with and without a finished chunk."""
        self.step([self.item("a", 0)], [], relative)
        self.step([self.item("b", 0), self.item("c", 0, 9)], [], relative)
        self.step([], [self.decode("a"), self.decode("b")], relative)
        self.step([self.item("c", 9, 20)], [self.decode("b"), self.decode("a")], relative)
        self.step([self.item("c", 20), self.item("d", 0, 1)], [self.decode("a")], relative)
        self.step([self.item("d", 1)], [self.decode(n) for n in "cab"], relative)
        for _ in range(12):
            self.step([], [self.decode(n) for n in "dacb"], relative)


def load(folder: Path, **options: object) -> TorchEngine:
    sizes = {"dtype": "float32", "block_size": BLOCK_SIZE, "num_blocks": 160}
    return TorchEngine.load(folder, device="cpu", **{**sizes, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_step_gives_the_logits_of_transformers(
    name: str, native: bool, tmp_path: Path
) -> None:
    model = save_model(tmp_path, name)
    ByHand(load(tmp_path, native=native), model, "abcd").all_kinds()


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_stays_within_two_percent(name: str, native: bool, tmp_path: Path) -> None:
    save_model(tmp_path, name, dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    engine = load(tmp_path, dtype="bfloat16", native=native)
    ByHand(engine, model, "abcd").all_kinds(relative=2e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_products_in_bfloat16_are_closer_than_those_of_transformers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a CPU with bfloat16 units does (oneDNN emulates them where there are none): it rounds
    # what it multiplies and every product. Transformers does so too, and is off by up to 4 %.
    monkeypatch.setattr(linear, "has_native_bf16", lambda: True)
    save_model(tmp_path, name, dtype="bfloat16")
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    hand = ByHand(load(tmp_path, dtype="bfloat16"), exact, "abcd")
    hand.all_kinds(relative=2.5e-2)
    theirs = [
        relative_error(row, expected)
        for tokens in hand.tokens.values()
        for row, expected in zip(
            reference_logits(rounded, tokens), reference_logits(exact, tokens), strict=True
        )
    ]
    assert max(hand.errors) < max(theirs)
    assert mean(hand.errors) < min(mean(theirs), 1.3e-2)
    assert sorted(hand.errors)[-3] < 2e-2, "all but two of sixty steps"
    assert next(iter(hand.engine.last_logits.values())).dtype == torch.bfloat16


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_of_256_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = save_model(tmp_path, name)
    ids = prompt(33, 5)
    answer = answers(load(tmp_path), [request("long", ids, 256)])["long"]
    text = model.generate(
        torch.tensor([ids]),
        max_new_tokens=256,
        min_new_tokens=256,
        do_sample=False,
        eos_token_id=-1,
    )
    assert answer == text[0, len(ids) :].tolist()


def test_a_fused_step_is_one_forward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_model(tmp_path, "llama")
    hand = ByHand(load(tmp_path), model, "ab")
    hand.step([hand.item("a", 0)], [], None)
    calls: list[int] = []
    forward = type(hand.engine._model).forward  # type: ignore[union-attr]

    def counted(self, inputs, pool):  # type: ignore[no-untyped-def]
        calls.append(len(inputs.tokens))
        return forward(self, inputs, pool)

    monkeypatch.setattr(type(hand.engine._model), "forward", counted)
    hand.step([hand.item("b", 0, 10)], [hand.decode("a")], None)
    assert calls == [11]


@pytest.mark.parametrize("native", [True, False])
def test_the_last_layer_computes_only_rows_with_logits(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path, "llama")
    hand = ByHand(load(tmp_path, native=native), model, "abc")
    computed: list[int] = []
    kind = type(hand.engine._model)
    advance = kind._advance_  # type: ignore[union-attr]

    def counted(self, hidden, layer, mixed):  # type: ignore[no-untyped-def]
        computed.append(len(hidden))
        advance(self, hidden, layer, mixed)

    monkeypatch.setattr(kind, "_advance_", counted)
    hand.step([hand.item("a", 0), hand.item("b", 0, 9)], [], None)
    hand.step([hand.item("c", 0, 12)], [hand.decode("a")], None)
    hand.step([hand.item("b", 9, 20)], [], None)
    cut = [[1], [1], []] if native else [[32], [13], [11]]
    assert computed == [32, 32, *cut[0], 13, 13, *cut[1], 11, 11, *cut[2]]
