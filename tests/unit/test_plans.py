"""What a request body asks for, with the model's defaults where it is silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rondo.types import Sampling, Slo
from rondo_gateway.body import Context
from rondo_gateway.errors import ApiError
from rondo_gateway.plan import GenerationPlan
from rondo_gateway.schemas import ChatBody, CompletionBody

SLO = Slo(ttft_s=2.0, tpot_s=0.1)
DEFAULTS = Sampling(temperature=0.6, top_p=0.9, top_k=20)
CONTEXT = Context(DEFAULTS, 1_000, SLO)


def plan(**fields: Any) -> GenerationPlan:
    base = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return ChatBody.model_validate(base | fields).plan(CONTEXT)


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
    seeded = completion(prompt=["a", "b"], n=2, seed=7).plan(replace(CONTEXT, random_seed=0))
    assert [s.seed for s in seeded.samplings] == [7, 8, 7, 8]
    random = completion(prompt=["a", "a"], n=2).plan(replace(CONTEXT, random_seed=0))
    assert [s.seed for s in random.samplings] == [0, 1, 2, 3]


def test_prompts_take_one_form() -> None:
    assert completion(prompt="a").prompt == ("a",)
    assert completion(prompt=["a", "b"]).prompt == ("a", "b")
    assert completion(prompt=[1, 2]).prompt == ([1, 2],)
    assert completion(prompt=[[1], [2, 3]]).prompt == ([1], [2, 3])


def test_a_completions_limit_is_16_unless_set() -> None:
    def limits(**fields: Any) -> tuple[int | None, int | None]:
        made = completion(**fields).plan(replace(CONTEXT, random_seed=0))
        return made.max_tokens, made.default_max_tokens

    assert limits() == (None, 16)
    assert limits(max_tokens=None) == (None, None)
    assert limits(max_tokens=5) == (5, None)


def test_what_vllms_users_know_reaches_the_sampling() -> None:
    [sampling] = plan(
        logit_bias={"7": -100, "8": 2.5},
        stop_token_ids=[3, 4],
        min_tokens=5,
        repetition_penalty=1.1,
    ).samplings
    assert sampling.logit_bias == ((7, -100.0), (8, 2.5))
    assert sampling.stop_token_ids == (3, 4)
    assert (sampling.min_tokens, sampling.repetition_penalty) == (5, 1.1)


def test_logprobs_of_a_chat() -> None:
    assert plan(logprobs=True).logprobs == 0
    asked = plan(logprobs=True, top_logprobs=4)
    assert (asked.logprobs, asked.samplings[0].logprobs) == (4, 4)
    assert (plan().logprobs, plan().samplings[0].logprobs) == (None, None)


def test_an_echo_asks_for_the_prompts_logprobs_if_any() -> None:
    def wanted(**fields: Any) -> tuple[int | None, int | None]:
        [sampling] = completion(**fields).plan(CONTEXT).samplings
        return sampling.logprobs, sampling.prompt_logprobs

    assert wanted(echo=True) == (None, None)
    assert wanted(echo=True, logprobs=3) == (3, 3)
    assert wanted(logprobs=3) == (3, None)


def test_the_best_of_several_are_chosen_by_logprobs_that_nobody_sees() -> None:
    made = completion(best_of=4, n=2, prompt=["a", "b"], seed=1).plan(CONTEXT)
    assert [s.seed for s in made.samplings] == [1, 2, 3, 4] * 2
    assert {s.logprobs for s in made.samplings} == {0}
    assert (made.kept, made.logprobs) == (2, None)


def test_no_tokens_at_all_are_only_for_an_echo() -> None:
    assert completion(max_tokens=0, echo=True).plan(CONTEXT).max_tokens == 0
    with pytest.raises(ApiError) as caught:
        completion(max_tokens=0).plan(CONTEXT)
    assert caught.value.param == "max_tokens"


def test_the_grammar_of_the_context_goes_to_every_choice() -> None:
    body = ChatBody.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2}
    )
    made = body.plan(replace(CONTEXT, grammar="g", grammar_param="guided_json"))
    assert [s.grammar for s in made.samplings] == ["g", "g"]
    assert made.grammar_param == "guided_json"
