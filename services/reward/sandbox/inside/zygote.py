"""The single-threaded process that every batch is forked from: it has seen no user code and never will.

For each batch it forks a process, relays that process's answers without reading them, and ends it: when the batch is
done, or when one sample takes longer than it may. A process that dies takes one sample with it; the samples after
that one get a new process.
"""

import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from json import loads

from services.reward.sandbox.inside import confine, frames

HEADER = frames.LENGTH
DOOMED_AFTER = 8
"""Samples that may end their process one after the other; the rest of the batch is then refused."""


@dataclass(frozen=True)
class Batch:
    """Samples of one organisation for one reward version, as JSON texts, with their limits."""

    source: str
    samples: list[bytes]
    cpu_s: float
    wall_s: float
    memory_bytes: int
    result_bytes: int


Grade = Callable[[Batch, int, int], None]
"""Runs in a batch's process: grade the batch's samples from an index on, and write one answer each to a descriptor."""


def serve(grade: Grade, inner_filter: bytes, null: int) -> None:
    """Read batches from standard input and write answers to standard output until the input ends.

    null: a descriptor of /dev/null, which takes the place of a batch's standard ones.
    """
    while True:
        try:
            batch = _read_batch()
        except frames.EndOfFrames:
            return
        _run(batch, grade, inner_filter, null)


def _read_batch() -> Batch:
    settings = loads(frames.read_frame(0))
    source = frames.read_frame(0).decode()
    samples = [frames.read_frame(0) for _ in range(settings.pop("samples"))]
    return Batch(source, samples, **settings)


def _run(batch: Batch, grade: Grade, inner_filter: bytes, null: int) -> None:
    """Answer every sample of a batch, one process after the other."""
    done = deaths = 0
    while done < len(batch.samples):
        if deaths == DOOMED_AFTER:
            _answer(frames.LOAD_FAILURE, f"GAVE_UP: {deaths} samples in a row ended their process".encode())
            return
        process = _Process(batch, done, grade, inner_filter, null)
        try:
            answered, failure = process.relay(batch)
        finally:
            process.end()
        done += answered
        if not failure:
            continue
        if not process.loaded:
            _answer(frames.LOAD_FAILURE, failure)
            return
        _answer(frames.FAILURE, failure)
        done, deaths = done + 1, 1 if answered else deaths + 1


def _answer(kind: bytes, payload: bytes) -> None:
    frames.write_frame(1, kind + payload)


class _Process:
    """One forked process and the pipe that it answers on."""

    def __init__(self, batch: Batch, first: int, grade: Grade, inner_filter: bytes, null: int) -> None:
        self.loaded = False
        self._pipe, theirs = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _live(batch, first, grade, inner_filter, theirs, null)
        os.close(theirs)
        self._expected = len(batch.samples) - first
        self._clock = (~self._pid << 3) | 2  # the CPU clock of another process: clock_getcpuclockid(3) without /proc
        self._received = b""

    def relay(self, batch: Batch) -> tuple[int, bytes]:
        """Pass answers on until the process has ended or must be. Returns how many, and why it had to, if it had."""
        answered = 0
        while True:
            try:
                payload = self._next(batch)
            except _Ended as end:
                return answered, end.why
            if not self.loaded:
                self.loaded = payload == frames.LOADED
                if not self.loaded:
                    return 0, payload
                continue
            _answer(frames.RESULT, payload)
            answered += 1
            if answered == self._expected:
                return answered, b""

    def end(self) -> None:
        """Kill what is left of it."""
        os.close(self._pipe)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _next(self, batch: Batch) -> bytes:
        """The next whole answer, within the limits of one sample. Raises _Ended."""
        wall_end, cpu_end = time.monotonic() + batch.wall_s, self._cpu_s() + batch.cpu_s
        while True:
            if (payload := self._whole(batch.result_bytes)) is not None:
                return payload
            wall_left, cpu_left = wall_end - time.monotonic(), cpu_end - self._cpu_s()
            if cpu_left <= 0:
                raise _Ended(f"CPU_LIMIT: used more than {batch.cpu_s:g} s of CPU".encode())
            if wall_left <= 0:
                raise _Ended(f"TIME_LIMIT: took longer than {batch.wall_s:g} s".encode())
            readable, _, _ = select.select([self._pipe], [], [], max(0.001, min(wall_left, cpu_left)))
            if readable:
                part = os.read(self._pipe, 1 << 16)
                if not part:
                    raise _Ended(self._death())
                self._received += part

    def _whole(self, most_bytes: int) -> bytes | None:
        """The first answer received, if all of it is here. Raises _Ended for one longer than it may be."""
        if len(self._received) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._received)
        if length > most_bytes:
            raise _Ended(f"OUTPUT_LIMIT: a result of {length} bytes; at most {most_bytes} are allowed".encode())
        end = HEADER.size + length
        if len(self._received) < end:
            return None
        payload, self._received = self._received[HEADER.size : end], self._received[end:]
        return payload

    def _cpu_s(self) -> float:
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # the process is gone, or the system has no such clock: its end and the wall limit remain
            return 0.0

    def _death(self) -> bytes:
        """Why the process closed its end of the pipe."""
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            status = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if status is None:
                time.sleep(0.002)
            elif status.si_code == os.CLD_EXITED:
                return f"CRASHED: the process left with status {status.si_status}".encode()
            elif status.si_status == signal.SIGXCPU:
                return b"CPU_LIMIT: the batch used all of its CPU"
            else:
                return f"CRASHED: ended by {signal.Signals(status.si_status).name}".encode()
        return b"CRASHED: it closed the pipe that results go through"


class _Ended(Exception):
    """The process is over, or has to be."""

    def __init__(self, why: bytes) -> None:
        super().__init__(why)
        self.why = why


def _live(batch: Batch, first: int, grade: Grade, inner_filter: bytes, pipe: int, null: int) -> None:
    """The whole life of a batch's process: tighter walls, then user code. Never returns."""
    try:
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, pipe)
        os.closerange(pipe + 1, 64)
        confine.limit_batch(batch.memory_bytes, int((len(batch.samples) - first + 1) * batch.cpu_s) + 1)
        if inner_filter:
            confine.die_with_parent()
            confine.install_seccomp(inner_filter)
        grade(batch, first, pipe)
    finally:
        os._exit(0)
