"""A container image through the Docker SDK: one sample as JSON on each line in, one result on each line out.

Containers have no network, a read-only root, no capabilities, no new privileges, user nobody, and limits of memory,
CPU and processes. They are kept warm between batches of one organisation and one image; a container that was late,
died or talked nonsense is removed. The daemon is the operator's: without a DOCKER_HOST in the settings nothing runs.
"""

import asyncio
import importlib
import json
import re
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from moontune.errors import InvalidField, MoontuneError, SandboxMissing, Unavailable
from moontune.values.reward import Parameter, RewardSample
from moontune.values.reward_definition import ContainerReward
from services.reward.sandbox.verdict import Failure, Verdict, verdict_from_json
from services.reward.usercode.sample_json import sample_to_json

PINNED = re.compile(r"([a-z0-9][\w./:-]*@)?sha256:[0-9a-f]{64}")
MEMORY_BYTES = 512 << 20
RESULT_BYTES = 64 * 1024
FRAME = struct.Struct(">BxxxI")
"""Docker's framing of a container's output: the stream (1 is standard output) and the length of what follows."""

LIMITS: Mapping[str, Any] = {
    "network_mode": "none",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "user": "65534:65534",
    "mem_limit": MEMORY_BYTES,
    "memswap_limit": MEMORY_BYTES,
    "pids_limit": 64,
    "nano_cpus": 1_000_000_000,
    "ipc_mode": "none",
    "tmpfs": {"/tmp": "size=16m,noexec,nosuid,nodev"},  # noqa: S108  (the container's own)
    "log_config": {"Type": "none"},
    "labels": {"moontune": "reward"},
}


class ContainerFailed(Exception):
    """One sample's failure that ends its container."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class Containers:
    """The daemon, and idle containers by organisation, image and command. Methods of containers run in threads."""

    def __init__(self, docker_host: str, most_idle: int = 8, most_running: int = 8) -> None:
        self._docker_host, self._most_idle = docker_host, most_idle
        self._client: Any = None
        self._lock = Lock()
        self._idle: defaultdict[tuple[object, ...], list[_Container]] = defaultdict(list)
        self.slots = asyncio.Semaphore(most_running)

    def check(self, image: str) -> None:
        """Raise unless the image is pinned by digest and the daemon has it."""
        if not PINNED.fullmatch(image):
            raise InvalidField.of("definition.container.image", image, "an image by digest, name@sha256:...")
        try:
            self._daemon().images.get(image)
        except MoontuneError:
            raise
        except Exception as error:
            pull = "an image that the daemon has; the operator pulls it there"
            raise InvalidField.of("definition.container.image", image, f"{pull} ({type(error).__name__})") from None

    def take(self, organisation: str, container: ContainerReward) -> "_Container":
        """A warm container, or a new one. Raises SandboxMissing without a daemon, Unavailable where none starts."""
        with self._lock:
            if idle := self._idle[_key(organisation, container)]:
                return idle.pop()
        daemon = self._daemon()
        try:
            return _Container(daemon, container)
        except Exception as error:
            raise Unavailable(f"the container does not start: {str(error)[:300]}") from error

    def give_back(self, organisation: str, container: ContainerReward, running: "_Container") -> None:
        """Keep a container that works for the next batch."""
        with self._lock:
            self._idle[_key(organisation, container)].append(running)
            full = sum(map(len, self._idle.values())) > self._most_idle
            surplus = next(idle for idle in self._idle.values() if idle).pop(0) if full else None
        if surplus is not None:
            surplus.remove()

    def close(self) -> None:
        """Remove every idle container."""
        for idle in self._idle.values():
            while idle:
                idle.pop().remove()
        if self._client is not None:
            self._client.close()

    def _daemon(self) -> Any:
        if not self._docker_host:
            raise SandboxMissing(
                "container rewards need a Docker daemon: the operator sets MOONTUNE_REWARD_DOCKER_HOST",
                metadata={"layers": "docker"},
            )
        if self._client is None:
            try:
                docker: Any = importlib.import_module("docker")  # an extra
            except ImportError:
                raise SandboxMissing("container rewards need moontune[containers]") from None
            try:
                self._client = docker.DockerClient(base_url=self._docker_host, timeout=20)
            except docker.errors.DockerException as error:
                raise Unavailable(f"the Docker daemon at {self._docker_host} does not answer: {error}") from error
        return self._client


class ContainerSource:
    """One organisation's image; see `Source`."""

    kind = "container"

    def __init__(self, containers: Containers, organisation: str, container: ContainerReward) -> None:
        self._containers, self._organisation, self._container = containers, organisation, container

    async def score(self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]) -> Sequence[Verdict]:
        """One verdict a sample; each that ends its container is its own. Raises SandboxMissing, Unavailable."""
        texts = [sample_to_json(sample, parameters) for sample in samples]
        async with self._containers.slots:
            return await asyncio.to_thread(self._score, texts)

    def _score(self, texts: Sequence[bytes]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        running: _Container | None = None
        try:
            for text in texts:
                running = running or self._containers.take(self._organisation, self._container)
                try:
                    verdicts.append(verdict_from_json(running.ask(text, self._container.timeout_s)))
                except ContainerFailed as failed:
                    verdicts.append(Verdict.failed(failed.failure, str(failed)))
                    running.remove()
                    running = None
        except BaseException:
            if running is not None:
                running.remove()
            raise
        if running is not None:
            self._containers.give_back(self._organisation, self._container, running)
        return verdicts


class _Container:
    """A running container and the socket to its standard input and output."""

    def __init__(self, daemon: Any, reward: ContainerReward) -> None:
        command = list(reward.command) or None
        self._container = daemon.containers.create(reward.image, command, stdin_open=True, detach=True, **LIMITS)
        self._attached: Any = None
        try:
            streams = {"stdin": 1, "stdout": 1, "stderr": 0, "stream": 1}
            self._attached = self._container.attach_socket(params=streams)
            self._socket: socket.socket = getattr(self._attached, "_sock", self._attached)
            self._container.start()
        except BaseException:
            self.remove()
            raise
        self._raw, self._said = b"", b""

    def ask(self, text: bytes, timeout_s: float) -> bytes:
        """One line for one line. Raises ContainerFailed."""
        deadline = time.monotonic() + timeout_s
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(text + b"\n")
            while b"\n" not in self._said:
                self._receive(deadline)
        except TimeoutError:
            raise ContainerFailed(Failure.TIME_LIMIT, f"took longer than {timeout_s:g} s") from None
        except OSError as error:
            raise ContainerFailed(Failure.CRASHED, f"the container ended ({error})") from None
        line, _, self._said = self._said.partition(b"\n")
        if self._said:
            raise ContainerFailed(Failure.BAD_RESULT, "more than one line came for one sample")
        given = line.strip()
        return given if given.startswith(b"{") else json.dumps({"reward": _number(given)}).encode()

    def remove(self) -> None:
        """Kill and forget it."""
        if self._attached is not None:
            self._socket.close()
            self._attached.close()
        self._container.remove(force=True)

    def _receive(self, deadline: float) -> None:
        """Take the next piece of output; standard error is thrown away."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)
        part = self._socket.recv(1 << 16)
        if not part:
            raise OSError("end of output")
        self._raw += part
        while len(self._raw) >= FRAME.size:
            stream, length = FRAME.unpack_from(self._raw)
            end = FRAME.size + length
            if len(self._raw) < end:
                break
            if stream == 1:
                self._said += self._raw[FRAME.size : end]
            self._raw = self._raw[end:]
        if len(self._said) > RESULT_BYTES or len(self._raw) > RESULT_BYTES + FRAME.size:
            raise ContainerFailed(Failure.OUTPUT_LIMIT, f"a line of more than {RESULT_BYTES} bytes")


def _number(text: bytes) -> object:
    try:
        return float(text[:64])
    except ValueError:
        return text[:80].decode(errors="replace")


def _key(organisation: str, container: ContainerReward) -> tuple[object, ...]:
    return organisation, container.image, container.command
