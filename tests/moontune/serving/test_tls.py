"""TLS, mTLS, keys and scopes through real channels."""

import subprocess

import grpc
import pytest
from pydantic import SecretStr

from moontune.api.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server
from moontune.auth.keys import KeyStore
from moontune.clients.credentials import Credentials, Tls
from moontune.clients.retry import NO_RETRY
from moontune.clients.trainer import TrainerClient
from moontune.errors import PermissionDenied, Unauthenticated, Unavailable
from moontune.serving.server import ServiceApp, opened
from moontune.serving.settings import ServiceSettings
from moontune.values.principal import Scope
from tests.fakes.chassis import SERVING, echoing, health_of
from tests.fakes.services import FakeTrainer

FT = "01J00000000000000000000000"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A root, and a server's and a client's certificate of it, made by openssl."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=root", "-days", "2")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return folder


def secured(folder, **more) -> ServiceSettings:
    return ServiceSettings(tls_certificate=folder / "server.pem", tls_key=folder / "server.key", **more)


def trainer_app(settings: ServiceSettings, trainer: FakeTrainer) -> ServiceApp:
    async def build(chassis) -> None:
        chassis.add(add_TrainerServiceServicer_to_server, trainer)

    return ServiceApp("trainer", settings, build)


async def test_tls_is_answered_and_plaintext_is_not(certificates):
    settings = secured(certificates, host="127.0.0.1")
    async with opened([trainer_app(settings, FakeTrainer())]) as [chassis]:
        address = f"127.0.0.1:{chassis.port}"
        async with TrainerClient(address, Credentials(tls=Tls(certificates / "ca.pem"))) as client:
            assert (await client.get_finetune(FT)).id == FT
        async with TrainerClient(address, retry=NO_RETRY) as client:
            with pytest.raises(Unavailable):
                await client.get_finetune(FT, deadline_s=5)


async def test_mutual_tls_wants_the_callers_certificate(certificates):
    settings = secured(certificates, tls_client_ca=certificates / "ca.pem")
    async with opened([trainer_app(settings, FakeTrainer())]) as [chassis]:
        address = f"127.0.0.1:{chassis.port}"
        mutual = Tls(certificates / "ca.pem", certificates / "client.pem", certificates / "client.key")
        async with TrainerClient(address, Credentials(tls=mutual)) as client:
            assert (await client.get_finetune(FT)).id == FT
        async with TrainerClient(address, Credentials(tls=Tls(certificates / "ca.pem")), retry=NO_RETRY) as client:
            with pytest.raises(Unavailable):
                await client.get_finetune(FT, deadline_s=5)


async def test_keys_scopes_and_organisations_through_the_wire(tmp_path):
    url = f"sqlite:///{tmp_path}/keys.db"
    store = KeyStore(url)
    _, reader = store.create("acme", scopes=[Scope.READ])
    store.close()
    trainer = FakeTrainer()
    settings = ServiceSettings(keys_database=url, internal_token=SecretStr("shared"))
    async with opened([trainer_app(settings, trainer)]) as [chassis]:
        address = f"127.0.0.1:{chassis.port}"
        async with TrainerClient(address) as nobody:
            with pytest.raises(Unauthenticated, match="send an API key"):
                await nobody.get_finetune(FT)
        async with TrainerClient(address, Credentials(api_key="mt_wrong")) as stranger:
            with pytest.raises(Unauthenticated, match="not known"):
                await stranger.get_finetune(FT)
        async with TrainerClient(address, Credentials(api_key=reader)) as client:
            await client.get_finetune(FT)
            with pytest.raises(PermissionDenied, match="needs the scope train"):
                await client.delete_finetune(FT)
        async with TrainerClient(address, Credentials(internal_token="shared", organisation="zeta")) as service:
            await service.delete_finetune(FT)
        assert trainer.organisations == ["acme", "zeta"]
        async with grpc.aio.insecure_channel(address) as channel:
            assert await health_of(channel) == SERVING
            reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async for _ in reflect(iter([b""]), timeout=5):
                    pass
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_without_keys_a_local_caller_is_let_in():
    async def answer(chassis, text: str) -> str:
        return text

    async with echoing(answer) as (_, stub, _):
        metadata = (("authorization", "Bearer anything"),)
        assert await stub.call("Unary", "x", metadata=metadata, timeout=5) == "x"
