"""Limits of a key over HTTP, and the audit log."""

import asyncio

import pytest

from moontune.auth.keys import KeyStore
from moontune.values.principal import KeyLimits, Scope
from tests.fakes.chassis import until
from tests.services.gateway.conftest import gateway, image_url
from tests.services.gateway.test_tuning import error_of

FINETUNES = "/v1/tuning/finetunes"


@pytest.fixture
def keys(tmp_path):
    store = KeyStore(f"sqlite:///{tmp_path}/keys.db")
    yield store
    store.close()


def key(store, **limits):
    _, secret = store.create("acme", limits=KeyLimits(**limits))
    return {"x-moondream-auth": secret}


def with_keys(tmp_path, **more):
    return gateway(tmp_path, keys_database=f"sqlite:///{tmp_path}/keys.db", **more)


async def test_a_key_beyond_its_rate_is_told_when_to_come_again(keys, tmp_path):
    slow, free = key(keys, requests_per_s=0.01), key(keys)
    async with with_keys(tmp_path) as running:
        assert (await running.client.get(FINETUNES, headers=slow)).status_code == 200
        answer = await running.client.get(FINETUNES, headers=slow)
        assert (answer.status_code, error_of(answer)["code"]) == (429, "RESOURCE_EXHAUSTED")
        assert 90 <= int(answer.headers["retry-after"]) <= 100
        for _ in range(5):
            assert (await running.client.get(FINETUNES, headers=free)).status_code == 200


async def test_a_keys_requests_at_once_are_bounded_and_streams_count_until_they_end(keys, tmp_path):
    one = key(keys, concurrent_requests=1)
    async with with_keys(tmp_path) as running:
        running.inference.slow_s = 30.0
        body = {"object": "x", "image_url": image_url()}
        first = asyncio.create_task(running.client.post("/v1/detect", json=body, headers=one))
        await until(lambda: running.inference.orders)
        answer = await running.client.get(FINETUNES, headers=one)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        first.cancel()
        await until(lambda: running.inference.cancelled == 1)
        for _ in range(200):
            if (await running.client.get(FINETUNES, headers=one)).status_code == 200:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("the slot was not freed")


async def test_changes_and_refusals_are_audited_reads_are_not(keys, tmp_path):
    made, secret = keys.create("acme", scopes=[Scope.READ, Scope.TRAIN])
    headers = {"x-moondream-auth": secret}
    async with with_keys(tmp_path) as running:
        await running.client.post(FINETUNES, json={"name": "x", "rank": 8}, headers=headers)
        await running.client.get(FINETUNES, headers=headers)
        await running.client.post("/v1/query", json={"question": "x"}, headers=headers)
        await running.client.get(FINETUNES, headers={"x-moondream-auth": "mt_wrong"})
    acts = [(one.organisation, one.key_id, one.action, one.outcome) for one in reversed(keys.audit.list())]
    assert acts[-3:] == [
        ("acme", made.id, f"POST {FINETUNES}", "200"),
        ("acme", made.id, "POST /v1/query", "403"),
        ("", "", f"GET {FINETUNES}", "401"),
    ]
    assert "mt_wrong" not in str(keys.audit.list())
