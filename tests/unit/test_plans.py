"""What a request body asks for, with the model's defaults where it is silent."""

from __future__ import annotations

from typing import Any

from rondo.types import Sampling, Slo
from rondo_gateway.schemas import ChatBody, CompletionBody, GenerationPlan

SLO = Slo(ttft_s=2.0, tpot_s=0.1)
DEFAULTS = Sampling(temperature=0.6, top_p=0.9, top_k=20)


def plan(**fields: Any) -> GenerationPlan:
    base = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return ChatBody.model_validate(base | fields).plan(DEFAULTS, 1_000, SLO)


def completion(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate({"model": "m", "prompt": "hi"} | fields)


def test_a_silent_request_gets_the_models_defaults() -> None:
    silent = plan()
    assert silent.samplings == (Sampling(temperature=0.6, top_p=0.9, top_k=20, seed=1_000),)
    assert (silent.max_tokens, silent.default_max_tokens) == (None, None)
    assert (silent.stops, silent.ignore_eos, silent.slo) == ((), False, SLO)
    assert (silent.stream, silent.include_usage) == (False, False)


def test_a_request_overrides_the_defaults_one_by_one() -> None:
    asked = plan(
        temperature=0,
        top_k=-1,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        seed=7,
        stop="x",
        ignore_eos=True,
        slo={"tpot_ms": 30},
        stream=True,
        stream_options={"include_usage": True},
    )
    assert asked.samplings == (
        Sampling(
            temperature=0,
            top_p=0.9,
            top_k=0,
            min_p=0.1,
            presence_penalty=1,
            frequency_penalty=-1,
            seed=7,
        ),
    )
    assert (asked.stops, asked.ignore_eos) == (("x",), True)
    assert asked.slo == Slo(ttft_s=2.0, tpot_s=0.03)
    assert (asked.stream, asked.include_usage) == (True, True)


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    assert plan(max_tokens=5).max_tokens == 5
    assert plan(max_tokens=5, max_completion_tokens=6).max_tokens == 6


def test_each_choice_has_its_own_seed() -> None:
    assert [s.seed for s in plan(n=3, seed=7).samplings] == [7, 8, 9]
    assert [s.seed for s in plan(n=3).samplings] == [1_000, 1_001, 1_002]


def test_seeds_stay_within_64_bits() -> None:
    assert [s.seed for s in plan(n=2, seed=2**63 - 1).samplings] == [2**63 - 1, -(2**63)]


def test_each_prompt_of_a_completion_has_its_choices() -> None:
    seeded = completion(prompt=["a", "b"], n=2, seed=7).plan(DEFAULTS, 0, SLO)
    assert [s.seed for s in seeded.samplings] == [7, 8, 7, 8]
    random = completion(prompt=["a", "a"], n=2).plan(DEFAULTS, 0, SLO)
    assert [s.seed for s in random.samplings] == [0, 1, 2, 3]


def test_prompts_take_one_form() -> None:
    assert completion(prompt="a").prompt == ("a",)
    assert completion(prompt=["a", "b"]).prompt == ("a", "b")
    assert completion(prompt=[1, 2]).prompt == ([1, 2],)
    assert completion(prompt=[[1], [2, 3]]).prompt == ([1], [2, 3])


def test_a_completions_limit_is_16_unless_set() -> None:
    def limits(**fields: Any) -> tuple[int | None, int | None]:
        made = completion(**fields).plan(DEFAULTS, 0, SLO)
        return made.max_tokens, made.default_max_tokens

    assert limits() == (None, 16)
    assert limits(max_tokens=None) == (None, None)
    assert limits(max_tokens=5) == (5, None)
