"""What a key may ask for: requests and tokens a minute, requests at once."""

from __future__ import annotations

import pytest

from rondo.service.api_keys import ApiKey
from rondo_gateway.errors import ApiError
from rondo_gateway.security.rates import Bucket, Usage


def key(**limits: int) -> ApiKey:
    return ApiKey(id="ada", sha256="0" * 64, **limits)  # type: ignore[arg-type]


def refusal(usage: Usage, now_s: float) -> ApiError:
    with pytest.raises(ApiError) as caught:
        usage.begin(now_s)
    assert caught.value.status == 429
    assert caught.value.type == "rate_limit_error"
    return caught.value


def test_a_bucket_holds_a_minute_and_fills_steadily() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(60, 0.0)
    assert bucket.wait_s(1, 0.0) == 1.0
    assert bucket.wait_s(10, 4.0) == 6.0
    assert bucket.wait_s(60, 1000.0) == 0.0
    assert bucket.wait_s(61, 1000.0) == 1.0
    bucket.take(90, 1000.0)
    assert bucket.wait_s(1, 1000.0) == 31.0


def test_without_a_limit_nothing_is_refused() -> None:
    usage = Usage(key(), 0.0)
    for _ in range(10_000):
        usage.begin(0.0)
    usage.end(10**9, 0.0)
    usage.begin(0.0)


def test_requests_per_minute_and_when_the_next_one_may_come() -> None:
    usage = Usage(key(requests_per_minute=3), 0.0)
    for _ in range(3):
        usage.begin(0.0)
        usage.end(0, 0.0)
    error = refusal(usage, 5.0)
    assert (error.code, error.retry_after_s) == ("rate_limit_exceeded", 15.0)
    usage.begin(20.0)


def test_requests_at_once_and_a_refused_one_costs_nothing() -> None:
    usage = Usage(key(concurrent_requests=2, requests_per_minute=3), 0.0)
    usage.begin(0.0)
    usage.begin(0.0)
    for _ in range(5):
        assert refusal(usage, 0.0).code == "concurrency_limit_exceeded"
    assert not usage.idle
    usage.end(0, 0.0)
    usage.begin(0.0)
    usage.end(0, 0.0)
    usage.end(0, 0.0)
    assert usage.idle
    assert refusal(usage, 0.0).code == "rate_limit_exceeded"


def test_tokens_are_charged_when_an_answer_ends_and_debts_are_paid_first() -> None:
    usage = Usage(key(tokens_per_minute=600), 0.0)
    usage.begin(0.0)
    usage.begin(0.0)
    usage.end(1000, 0.0)
    error = refusal(usage, 0.0)
    assert error.code == "token_limit_exceeded"
    assert error.retry_after_s == pytest.approx(40.1)
    usage.end(0, 40.0)
    usage.begin(41.0)


def test_other_limits_hold_at_once_and_the_same_ones_go_on() -> None:
    usage = Usage(key(requests_per_minute=2), 0.0)
    usage.begin(0.0)
    usage.begin(0.0)
    usage.changed(key(requests_per_minute=2, concurrent_requests=5), 0.0)
    assert refusal(usage, 0.0).code == "rate_limit_exceeded"
    usage.changed(key(requests_per_minute=4, concurrent_requests=2), 0.0)
    assert refusal(usage, 0.0).code == "concurrency_limit_exceeded"
    usage.end(0, 0.0)
    usage.begin(0.0)
