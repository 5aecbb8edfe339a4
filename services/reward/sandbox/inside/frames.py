"""Messages on a pipe: a big-endian 4-byte length, then that many bytes. Blocking; the zygote's two ends of the host."""

import os
import struct

LENGTH = struct.Struct(">I")

RESULT, FAILURE, LOAD_FAILURE = b"R", b"F", b"L"
"""First byte of an answer: what user code returned; why one sample has no grade; why no later sample has one."""

LOADED = b"ok"
"""What a batch's process says first, once user code is compiled and ready."""


class EndOfFrames(Exception):
    """The other end is closed."""


def read_exactly(fd: int, count: int) -> bytes:
    """That many bytes. Raises EndOfFrames where fewer come."""
    parts: list[bytes] = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EndOfFrames
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(fd: int) -> bytes:
    """One message."""
    (count,) = LENGTH.unpack(read_exactly(fd, LENGTH.size))
    return read_exactly(fd, count)


def write_frame(fd: int, payload: bytes) -> None:
    """One message, whole."""
    left = memoryview(LENGTH.pack(len(payload)) + payload)
    while left:
        left = left[os.write(fd, left) :]
