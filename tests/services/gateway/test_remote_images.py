"""Images by http(s) URL: refused unless allowed, and then no door into the network."""

import asyncio
import base64
import ipaddress
import socket

import httpcore
import pytest

from moontune.errors import ImageInvalid, ImageTooLarge, InvalidField
from services.gateway.remote_images import GuardedNetwork, RemoteImages, is_public
from tests.services.gateway.conftest import gateway, image_url
from tests.services.gateway.test_tuning import error_of

PNG = base64.b64decode(image_url(kind="PNG").partition(",")[2])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("2002:a9fe:a9fe::1", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


class Host:
    """A server on loopback that answers with fixed bytes, and counts."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.requests = answer, []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def _serve(self, reader, writer):
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        await writer.drain()
        writer.close()

    def images(self, **changed):
        settings = {"hosts": ["pictures.test"], "most_bytes": 10_000, "ports": (self.port,)} | changed
        return RemoteImages(
            network=changed.pop("network", Names()), **{k: v for k, v in settings.items() if k != "network"}
        )


class Names(httpcore.AsyncNetworkBackend):
    """Every name is this machine: stands for the guarded network where the guard is not what is tested."""

    def __init__(self):
        self.inner, self.names = GuardedNetwork(lambda _: True), []

    async def connect_tcp(self, host, port, **options):
        self.names.append(host)
        return await self.inner.connect_tcp("127.0.0.1", port, **options)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def test_an_image_of_an_allowed_host_is_fetched_without_anything_of_the_callers():
    async with Host(ok(PNG)) as host:
        images = host.images()
        assert await images.fetch(f"http://pictures.test:{host.port}/a.png?x=1", "image_url") == PNG
        (request,) = host.requests
        assert request.startswith(b"GET /a.png?x=1 HTTP/1.1\r\n")
        assert f"Host: pictures.test:{host.port}".encode() in request
        assert b"oondream" not in request
        await images.close()


async def test_redirects_errors_and_heavy_answers_are_refused():
    cases = [
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", ImageInvalid, "302"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", ImageInvalid, "404"),
        (ok(b"x" * 10_001), ImageTooLarge, "more than 10000 bytes"),
        (b"not http at all", ImageInvalid, "RemoteProtocolError"),
        (b"", ImageInvalid, "RemoteProtocolError"),
    ]
    for answer, error, says in cases:
        async with Host(answer) as host:
            images = host.images()
            with pytest.raises(error, match=says):
                await images.fetch(f"http://pictures.test:{host.port}/", "image_url")
            assert len(host.requests) == 1
            await images.close()


async def test_hosts_ports_and_forms_that_are_not_allowed():
    async with Host(ok(PNG)) as host:
        images = host.images()
        for url in (
            f"http://other.test:{host.port}/",
            f"http://pictures.test.evil.test:{host.port}/",
            "http://pictures.test/",
            "https://pictures.test:22/",
            f"http://user@pictures.test:{host.port}/",
            f"http://pictures.test@evil.test:{host.port}/",
            f"ftp://pictures.test:{host.port}/",
            f"http://pictures.test:{host.port}/\r\nX: y",
            "http://pictures.test:99999/",
            "http://[::1",
            "file:///etc/passwd",
            "",
        ):
            with pytest.raises(InvalidField):
                await images.fetch(url, "image_url")
        with pytest.raises(InvalidField, match="not fetched"):
            await host.images(hosts=[]).fetch(f"http://pictures.test:{host.port}/", "image_url")
        assert host.requests == []


async def test_every_address_of_a_name_is_checked_and_the_checked_one_is_dialled(monkeypatch):
    async with Host(ok(PNG)) as host:
        loop, asked = asyncio.get_running_loop(), []
        answers = {
            "inside.test": ["127.0.0.1"],
            "mixed.test": ["8.8.8.8", "10.0.0.1"],
            "metadata.test": ["169.254.169.254"],
            "sixth.test": ["::1"],
        }

        async def resolve(name, port, **_):
            asked.append(name)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answers[name]]

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        images = host.images(hosts=["*"], network=GuardedNetwork())
        for name in answers:
            with pytest.raises(InvalidField, match="all of whose addresses are public"):
                await images.fetch(f"http://{name}:{host.port}/", "image_url")
        assert host.requests == []
        # Rebinding: the name is public when it is checked, and would be inside when it is asked again.
        answers["rebinding.test"] = ["203.0.113.9"]
        dialled = []

        class Dialled(httpcore.AsyncNetworkBackend):
            async def connect_tcp(self, address, port, *rest):
                dialled.append(address)
                answers["rebinding.test"] = ["127.0.0.1"]
                raise httpcore.ConnectTimeout

        network = GuardedNetwork(lambda address: str(address) == "203.0.113.9")
        network._network = Dialled()
        before = len(asked)
        with pytest.raises(ImageInvalid):
            await host.images(hosts=["*"], network=network).fetch(f"http://rebinding.test:{host.port}/", "image_url")
        assert (dialled, len(asked) - before) == (["203.0.113.9"], 1)


async def test_over_http_a_url_is_refused_by_default_and_fetched_where_it_is_allowed(running, tmp_path):
    body = {"object": "x", "image_url": "http://pictures.test/a.png"}
    answer = await running.client.post("/v1/detect", json=body)
    assert (answer.status_code, error_of(answer)["param"]) == (400, "image_url")
    async with Host(ok(PNG)) as host, gateway(tmp_path, image_hosts=["pictures.test"]) as other:
        other.state.images._remote = host.images()
        url = f"http://pictures.test:{host.port}/a.png"
        answer = await other.client.post("/v1/detect", json=body | {"image_url": url})
        assert answer.status_code == 200, answer.text
        assert other.inference.orders[0].request.image.data == PNG
        finetune_id = await other.finetune()
        request = {"skill": "detect", "object": "x", "image_url": url}
        rollouts = {"finetune_id": finetune_id, "num_rollouts": 2, "request": request}
        made = (await other.client.post("/v1/tuning/rollouts", json=rollouts)).json()
        assert made["request"]["image_url"].startswith("data:image/png;base64,")
        group = {"mode": "rl", "request": made["request"], "rollouts": made["rollouts"], "rewards": [0.0, 1.0]}
        answer = await other.client.post("/v1/tuning/train_step", json={"finetune_id": finetune_id, "groups": [group]})
        assert answer.status_code == 200, answer.text
        assert other.trainer.steps[0].groups[0].verified
        group["request"] = request
        answer = await other.client.post("/v1/tuning/train_step", json={"finetune_id": finetune_id, "groups": [group]})
        assert (answer.status_code, error_of(answer)["param"]) == (400, "groups[0].request.image_url")


async def test_a_host_in_a_network_of_the_operators_is_fetched_from_and_in_no_other(tmp_path):
    """Through the whole gateway, from a real server: one setting decides whether loopback is a door."""
    async with Host(ok(PNG)) as host:
        body = {"object": "x", "image_url": f"http://127.0.0.1:{host.port}/a.png"}
        allowed = {"image_hosts": ["127.0.0.1"], "image_ports": [host.port]}
        async with gateway(tmp_path, **allowed) as running:
            answer = await running.client.post("/v1/detect", json=body)
            assert (answer.status_code, error_of(answer)["param"]) == (400, "image_url")
            assert "image_networks" in error_of(answer)["message"]
            assert host.requests == []
        async with gateway(tmp_path, **allowed, image_networks=["127.0.0.0/8"]) as running:
            answer = await running.client.post("/v1/detect", json=body)
            assert answer.status_code == 200, answer.text
            assert running.inference.orders[-1].request.image.data == PNG
            assert len(host.requests) == 1
            elsewhere = {"object": "x", "image_url": f"http://[::1]:{host.port}/a.png"}
            assert (await running.client.post("/v1/detect", json=elsewhere)).status_code == 400
            finetune_id = await running.finetune()
            asked = {"skill": "detect", **body}
            made = await running.client.post("/v1/tuning/rollouts", json={"finetune_id": finetune_id, "request": asked})
            assert made.json()["request"]["image_url"].startswith("data:image/png;base64,")  # a step fetches nothing
