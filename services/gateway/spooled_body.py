"""A request's body on disk: read in small pieces, hashed, and parsed from there as often as needed."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from moontune.errors import InvalidField, Unavailable

WRITE_BYTES = 1024 * 1024


class SpooledBody:
    """A body in an unnamed temporary file, which ends with `close` or with the process."""

    def __init__(self, file: BinaryIO, sha256: bytes) -> None:
        """sha256: of every byte of the body."""
        self._file = file
        self.sha256 = sha256

    @classmethod
    async def receive(cls, pieces: AsyncIterator[bytes], folder: Path | None, string_bytes: int) -> "SpooledBody":
        """Write a body down as it comes.

        Args:
            pieces: the body.
            folder: where to write; None is the system's temporary folder.
            string_bytes: longest JSON string, so that no parser has to hold more at once.

        Raises:
            InvalidField: a longer string. Unavailable: the disk is full.
        """
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it lives as long as the body)
        digest, longest = hashlib.sha256(), StringBound(string_bytes)
        try:
            pending = bytearray()
            async for piece in pieces:
                digest.update(piece)
                longest.feed(piece)
                pending += piece
                if len(pending) >= WRITE_BYTES:
                    await asyncio.to_thread(file.write, bytes(pending))
                    pending.clear()
            file.write(bytes(pending))
            file.flush()
        except OSError as error:
            file.close()
            raise Unavailable(f"the gateway cannot write the body down: {error.strerror}") from error
        except BaseException:
            file.close()
            raise
        return cls(file, digest.digest())

    def reader(self) -> "BodyReader":
        """A reader with a position of its own; several may read at once."""
        return BodyReader(self._file.fileno())

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()


class BodyReader:
    """The part of a file that a JSON parser needs: `read`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size` and at most WRITE_BYTES of them; b"" at the end."""
        wanted = WRITE_BYTES if size < 0 else min(size, WRITE_BYTES)
        data = os.pread(self._descriptor, wanted, self._position)
        self._position += len(data)
        return data


class StringBound:
    """Refuses a body once a run of it could be a JSON string of too many bytes.

    What is measured is the distance between quotes that no backslash precedes: never less than a string's length.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._run = 0
        self._last = b""

    def feed(self, piece: bytes) -> None:
        """Look at the next bytes. Raises InvalidField for a run that is too long."""
        window = self._last + piece
        offset = len(self._last)
        self._last = piece[-1:] or self._last
        first = _quote(window, offset)
        if first < 0:
            self._grow(len(piece))
            return
        self._grow(first - offset)
        # Runs within one piece are no longer than the piece, so only the first and the last quote matter.
        self._run = 0
        self._grow(len(window) - _last_quote(window, first) - 1)

    def _grow(self, count: int) -> None:
        self._run += count
        if self._run > self._most_bytes:
            allowed = f"strings of at most {self._most_bytes} bytes, which is an image of the largest size"
            raise InvalidField.of("body", "a JSON string that is longer", allowed)


def _quote(window: bytes, start: int) -> int:
    found = window.find(b'"', start)
    while found > 0 and window[found - 1] == 0x5C:
        found = window.find(b'"', found + 1)
    return found


def _last_quote(window: bytes, first: int) -> int:
    found = window.rfind(b'"')
    while found > first and window[found - 1] == 0x5C:
        found = window.rfind(b'"', first, found)
    return found
