"""The context limit and the range of token ids."""

from __future__ import annotations

import pytest

from rondo_gateway.errors import ApiError
from rondo_gateway.limits import check_token_ids, output_limit


@pytest.mark.parametrize(
    ("prompt", "wanted", "default", "limit"),
    [
        (1, None, None, 99),
        (99, None, None, 1),
        (40, 60, None, 60),
        (40, 1, 16, 1),
        (40, None, 16, 16),
        (90, None, 16, 10),
    ],
)
def test_what_fits(prompt: int, wanted: int | None, default: int | None, limit: int) -> None:
    assert output_limit(prompt, wanted, 100, default=default) == limit


@pytest.mark.parametrize(
    ("prompt", "wanted", "param", "numbers"),
    [
        (100, None, "messages", ("100",)),
        (2_500, 1, "messages", ("100", "2500")),
        (40, 61, "max_tokens", ("100", "101", "40", "61")),
    ],
)
def test_what_does_not_fit_is_a_400_with_the_numbers(
    prompt: int, wanted: int | None, param: str, numbers: tuple[str, ...]
) -> None:
    with pytest.raises(ApiError) as caught:
        output_limit(prompt, wanted, 100)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", param)
    assert all(number in error.message for number in numbers)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ApiError, match="no tokens") as caught:
        output_limit(0, 5, 100, prompt_param="prompt")
    assert caught.value.param == "prompt"


def test_token_ids() -> None:
    check_token_ids([0, 9], 10)
    for ids in ([-1, 5], [5, 10], [2**70]):
        with pytest.raises(ApiError) as caught:
            check_token_ids(ids, 10)
        assert (caught.value.status, caught.value.param) == (400, "prompt")
