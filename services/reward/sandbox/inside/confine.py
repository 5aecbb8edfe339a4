"""Give up, for ever and in this order: root, new privileges, memory and files beyond limits, the file system, calls.

Each layer either holds or raises LayerMissing with its name: nothing here goes on half confined.
"""

import contextlib
import ctypes
import os
import resource
import signal
from dataclasses import dataclass

from services.reward.sandbox.inside import landlock

NOBODY = 65534

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 38, 22
SECCOMP_MODE_FILTER = 2
FILTER_INSTRUCTION_BYTES = 8


class LayerMissing(Exception):
    """A layer that does not work here: its name and why."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(f"{layer}: {why}")
        self.layer, self.why = layer, why


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


@dataclass(frozen=True)
class Walls:
    """What to confine with. readable: files and folders that stay visible. seccomp: the filter's instructions."""

    readable: tuple[str, ...]
    seccomp: bytes


def confine(walls: Walls) -> dict[str, str]:
    """Put every layer around this process. Returns what to say of each by name. Raises LayerMissing."""
    try:
        ruleset, abi = landlock.ruleset(walls.readable)
        said = {"user": _leave_root(), "no_new_privs": _no_new_privs(), "rlimits": _limit()}
        landlock.restrict(ruleset)
    except landlock.LandlockMissing as error:
        raise LayerMissing("landlock", str(error)) from None
    return said | {"landlock": f"ABI {abi}", "seccomp": install_seccomp(walls.seccomp)}


def die_with_parent() -> None:
    """Be killed when the parent ends; cleared by a change of user, so it is called after one."""
    _prctl("user", PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_batch(memory_bytes: int, cpu_s: int) -> None:
    """The limits of one batch's process; memory_bytes are on top of what it has mapped already."""
    _set_limit(resource.RLIMIT_AS, _mapped_bytes + memory_bytes)
    _set_limit(resource.RLIMIT_CPU, cpu_s)
    _set_limit(resource.RLIMIT_NPROC, 0)


def install_seccomp(instructions: bytes) -> str:
    """Filter this process's system calls from now on; a second filter adds to the first."""
    count = len(instructions) // FILTER_INSTRUCTION_BYTES
    program = _Filter(count, instructions)
    _prctl("seccomp", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))
    return f"{count} instructions"


def _leave_root() -> str:
    """Root becomes nobody; whoever is left must have no capability."""
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError as error:
            raise LayerMissing("user", f"root cannot become nobody: {error.strerror}") from None
    held = _capabilities()
    if os.geteuid() == 0 or held:
        raise LayerMissing("user", f"uid {os.geteuid()} with capabilities {held:#x}; run the service unprivileged")
    die_with_parent()
    _prctl("user", PR_SET_DUMPABLE, 0)
    return f"uid {os.geteuid()}, no capabilities"


def _capabilities() -> int:
    """Effective and permitted ones."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123  (pathlib is slow to import)
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["CapEff"], 16) | int(lines["CapPrm"], 16)


def _no_new_privs() -> str:
    _prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)
    return ""


_mapped_bytes = 0
"""Address space of the zygote, measured while /proc can still be read."""


def _limit() -> str:
    """Limits that hold for the zygote too; those of a batch come with `limit_batch`."""
    global _mapped_bytes
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        _mapped_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    try:
        _set_limit(resource.RLIMIT_CORE, 0)
        _set_limit(resource.RLIMIT_FSIZE, 0)
        _set_limit(resource.RLIMIT_NOFILE, 64)
        _set_limit(resource.RLIMIT_MEMLOCK, 0)
    except (OSError, ValueError) as error:
        raise LayerMissing("rlimits", str(error)) from None
    return "memory, CPU, files, processes"


def measure_memory() -> None:
    """Note the address space without any other limit: for the trusted profile."""
    global _mapped_bytes
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        _mapped_bytes = int(statm.read().split()[0]) * resource.getpagesize()


def _set_limit(which: int, value: int) -> None:
    """Lower both the soft and the hard limit."""
    hard = resource.getrlimit(which)[1]
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (least, least))


def _prctl(layer: str, option: int, *values: int) -> None:
    """Call prctl; every argument as a long, which is what the kernel compares with 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    padded = (*values, *([0] * (4 - len(values))))
    if libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(value) for value in padded)) != 0:
        raise LayerMissing(layer, f"prctl {option}: {os.strerror(ctypes.get_errno())}")
