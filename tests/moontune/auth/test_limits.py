"""Rate, concurrency and storage of one key."""

import pytest

from moontune.auth.limits import KeyLimiter, require_storage
from moontune.errors import ResourceExhausted
from moontune.values.principal import KeyLimits, Principal


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def caller(key_id="k", internal=False, **limits):
    return Principal("acme", frozenset(), key_id, internal, KeyLimits(**limits))


async def enter(limiter, principal):
    async with limiter.admitted(principal):
        pass


async def test_the_rate_is_a_bucket_that_fills_again():
    clock = Clock()
    limiter, slow = KeyLimiter(clock), caller(requests_per_s=2.0)
    for _ in range(2):  # a second's worth at once
        await enter(limiter, slow)
    with pytest.raises(ResourceExhausted, match="2 requests a second") as refused:
        await enter(limiter, slow)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    clock.now_s += 0.5
    await enter(limiter, slow)
    with pytest.raises(ResourceExhausted):
        await enter(limiter, slow)
    clock.now_s += 1000.0  # a long rest gives one burst, not more
    for _ in range(2):
        await enter(limiter, slow)
    with pytest.raises(ResourceExhausted):
        await enter(limiter, slow)
    await enter(limiter, caller("another", requests_per_s=2.0))


async def test_a_rate_below_one_a_second_lets_one_through():
    clock = Clock()
    limiter, rare = KeyLimiter(clock), caller(requests_per_s=0.1)
    await enter(limiter, rare)
    with pytest.raises(ResourceExhausted) as refused:
        await enter(limiter, rare)
    assert refused.value.retry_after_s == pytest.approx(10.0)


async def test_requests_at_once_are_counted_until_they_end_however_they_end():
    limiter, two = KeyLimiter(), caller(concurrent_requests=2)
    async with limiter.admitted(two), limiter.admitted(two):
        with pytest.raises(ResourceExhausted, match="2 requests under way; allowed: 2 at once"):
            await enter(limiter, two)
    with pytest.raises(ZeroDivisionError):
        async with limiter.admitted(two):
            raise ZeroDivisionError
    async with limiter.admitted(two), limiter.admitted(two):
        pass


async def test_calls_of_our_own_services_and_of_keys_without_limits_are_not_counted():
    limiter = KeyLimiter()
    internal = caller(internal=True, requests_per_s=1.0, concurrent_requests=1)
    for one in (internal, caller(), caller("")):
        async with limiter.admitted(one), limiter.admitted(one), limiter.admitted(one):
            pass


def test_storage():
    require_storage(caller(storage_bytes=100), 60, 40)
    require_storage(caller(), 10**15, 1)
    with pytest.raises(ResourceExhausted, match="60 bytes are stored and 41 are to come; this key's quota is 100"):
        require_storage(caller(storage_bytes=100), 60, 41)
