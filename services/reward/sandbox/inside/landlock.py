"""Landlock by system call: this process and its children see the folders given, read-only, and nothing else.

The kernel's interface is described in its `userspace-api/landlock` page; glibc has no wrappers. System call numbers
444 to 446 are the same on every architecture.
"""

import ctypes
import os
from collections.abc import Sequence

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
GET_VERSION = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8

_FS_RIGHTS_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FS_RIGHTS = (1 << 16) - 1
"""Every right on files up to ABI 5 (ioctl on devices); what a ruleset handles and no rule grants is denied."""

_NET_RIGHTS = 0b11
"""Bind and connect TCP, from ABI 4."""

_SCOPES = 0b11
"""Abstract unix sockets and signals stay within the domain, from ABI 6."""


class LandlockMissing(Exception):
    """The kernel has no Landlock, or it is switched off; the message says which call said so."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("rights", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's Landlock version, at least 1. Raises LandlockMissing."""
    return _call(CREATE_RULESET, None, 0, GET_VERSION)


def ruleset(readable: Sequence[str]) -> tuple[int, int]:
    """A ruleset, as a descriptor, that leaves these folders and files readable, and the kernel's Landlock version.

    It denies all other files, TCP, and signals outwards. Paths that do not exist are left out. It is made before root
    is left, which may be needed to reach the paths, and takes effect with `restrict`.
    """
    version = abi()
    made = _new_ruleset(version)
    for path in readable:
        _allow_reading(made, path)
    return made, version


def restrict(made: int) -> None:
    """Hold this process and its children to a ruleset for ever; needs no_new_privs. Closes the descriptor."""
    try:
        _call(RESTRICT_SELF, made, 0)
    finally:
        os.close(made)


def _new_ruleset(version: int) -> int:
    handled = _Ruleset(
        fs=_FS_RIGHTS_OF_ABI.get(version, _FS_RIGHTS),
        net=_NET_RIGHTS if version >= 4 else 0,
        scoped=_SCOPES if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    return _call(CREATE_RULESET, ctypes.byref(handled), size, 0)


def _allow_reading(made: int, path: str) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE  # noqa: PTH112  (pathlib is slow to import)
    try:
        _call(ADD_RULE, made, RULE_PATH_BENEATH, ctypes.byref(_PathBeneath(rights, parent)), 0)
    finally:
        os.close(parent)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [*arguments, *([0] * (4 - len(arguments)))]
    result = libc.syscall(ctypes.c_long(number), *(_as_argument(each) for each in padded))
    if result < 0:
        code = ctypes.get_errno()
        raise LandlockMissing(f"system call {number}: {os.strerror(code)}")
    return result


def _as_argument(value: object) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value
