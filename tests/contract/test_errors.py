"""Every class of the error tree, through a real channel, in every kind of rpc."""

import grpc
import pytest

from moontune.clients.errors import from_rpc_error
from moontune.errors import (
    FieldViolation,
    Internal,
    InvalidField,
    InvalidState,
    MoontuneError,
    NotFound,
    all_errors,
    error_class,
)
from moontune.serving.server import ServiceApp, opened
from moontune.serving.settings import ServiceSettings
from tests.fakes.echo import KINDS, EchoServicer, EchoStub, add_to_server

BY_REASON = {kind.reason: kind for kind in all_errors() if kind is not Internal} | {Internal.reason: Internal}


LONG = "月" * 5000
VERBOSE = InvalidField(
    LONG,
    metadata={f"{LONG[:40]}{index}": LONG for index in range(50)},
    violations=[FieldViolation(f"{LONG}[{index}]", LONG) for index in range(50)],
    retry_after_s=1.0,
)
"""More text than gRPC's metadata takes, in the script that costs most: nine bytes a character when percent-encoded."""


async def answer(text: str) -> str:
    if text == "verbose":
        raise VERBOSE
    if text == "bug":
        raise ValueError("the password is swordfish")
    kind = BY_REASON[text]
    raise kind(
        f"what {text} says: £ and 月",
        metadata={"given": "7", "name": text},
        violations=[FieldViolation("a.b[0]", "is 7"), FieldViolation("c", "is missing")],
        retry_after_s=1.25,
    )


async def build(chassis) -> None:
    chassis.add(add_to_server, EchoServicer(answer))


@pytest.fixture
async def stub():
    async with (
        opened([ServiceApp("echo", ServiceSettings(), build)]) as [chassis],
        grpc.aio.insecure_channel(f"127.0.0.1:{chassis.port}") as channel,
    ):
        yield EchoStub(channel)


def test_reasons_tell_the_classes_apart():
    assert len(BY_REASON) == len(all_errors())


@pytest.mark.parametrize("kind", KINDS)
async def test_every_error_arrives_as_it_was_raised(stub, kind):
    for raised in all_errors():
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.call(kind, raised.reason, timeout=10)
        assert caught.value.code().name == raised.code
        error = from_rpc_error(caught.value)
        assert type(error) is raised
        assert error.message == f"what {raised.reason} says: £ and 月"
        assert error.metadata == {"given": "7", "name": raised.reason}
        assert error.violations == (FieldViolation("a.b[0]", "is 7"), FieldViolation("c", "is missing"))
        assert error.retry_after_s == 1.25
        assert isinstance(error, MoontuneError)
        assert error.retryable == raised.retryable


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_exception_tells_nothing_but_an_id(stub, kind, capfd):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.call(kind, "bug", timeout=10)
    error = from_rpc_error(caught.value)
    assert type(error) is Internal
    assert "swordfish" not in error.message
    error_id = error.message.rpartition(" ")[2]
    assert len(error_id) == 32


async def test_an_error_with_too_much_to_say_still_arrives_at_a_client_with_default_limits(stub):
    for _ in range(20):  # above its soft limit of 8 KiB gRPC refuses metadata at random
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.call("Unary", "verbose", timeout=10)
        error = from_rpc_error(caught.value)
        assert type(error) is InvalidField
        assert error.message.startswith(LONG[:50])
        assert error.violations[0].description.startswith(LONG[:20])


@pytest.mark.parametrize(
    ("code", "expected"), [("FAILED_PRECONDITION", InvalidState), ("NOT_FOUND", NotFound), ("ABORTED", Internal)]
)
def test_an_unknown_reason_becomes_the_class_that_says_no_more_than_its_code(code, expected):
    assert error_class("OF_A_NEWER_SERVER", code) is expected


async def test_a_message_over_the_cap_is_the_callers_fault(stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.call("Unary", "x" * (33 * 1024 * 1024), timeout=30)
    assert not from_rpc_error(caught.value).retryable
