"""The filters of system calls: what a jail's zygote may ask of the kernel, and the less that a batch's process may.

Lists of what is allowed, not of what is denied: a call that a later kernel adds is refused until someone decides.
Whatever is not listed fails with EPERM, so that user code gets a PermissionError and not a death. libseccomp (through
pyseccomp) turns the lists into a program for this machine's architecture; calls that it does not have are left out.
"""

import errno
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

ALLOWED = (
    "read write readv writev pread64 lseek close fstat stat lstat newfstatat statx open openat access faccessat "
    "faccessat2 readlink readlinkat getdents64 getcwd mmap munmap mprotect mremap madvise brk rt_sigaction "
    "rt_sigprocmask rt_sigreturn sigaltstack futex clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday "
    "time getpid gettid getppid getuid geteuid getgid getegid getrandom exit exit_group sched_yield "
    "sched_getaffinity getrusage getrlimit times uname dup dup2 dup3 poll ppoll select pselect6 set_robust_list rseq "
    "restart_syscall arch_prctl set_tid_address membarrier"
)
"""Memory, time, reading what Landlock leaves visible, and writing to what is open. No sockets, processes, signals."""

ZYGOTE_ALLOWED = ("clone", "fork", "wait4", "waitid", "kill", "pipe", "pipe2", "prctl", "seccomp", "setrlimit")
"""What forking, ending and confining a batch's process takes on top."""

NEW_NAMESPACES = 0x7E020080
"""CLONE_NEW*: flags of clone that the zygote never uses."""

FCNTL = {"F_DUPFD": 0, "F_GETFD": 1, "F_SETFD": 2, "F_GETFL": 3, "F_DUPFD_CLOEXEC": 1030}
"""Without F_SETOWN and F_SETFL, which could make the kernel send signals to others."""

IOCTL = {"TCGETS": 0x5401, "FIONCLEX": 0x5450, "FIOCLEX": 0x5451}


class SeccompMissing(Exception):
    """libseccomp or its binding is not installed; the message says what to install."""


@cache
def zygote_filter() -> bytes:
    """BPF instructions for a jail's first process. Raises SeccompMissing."""
    return _program([*ALLOWED.split(), *ZYGOTE_ALLOWED])


@cache
def batch_filter() -> bytes:
    """BPF instructions for a process that runs user code. Raises SeccompMissing."""
    return _program(ALLOWED.split())


def _program(allowed: Sequence[str]) -> bytes:
    library = _library()
    rules = library.SyscallFilter(defaction=library.ERRNO(errno.EPERM))
    add = _adder(library, rules)
    for name in allowed:
        if name == "clone":
            add(name, library.Arg(0, library.MASKED_EQ, NEW_NAMESPACES, 0))
        else:
            add(name)
    for commands, call in ((FCNTL, "fcntl"), (IOCTL, "ioctl")):
        for value in commands.values():
            add(call, library.Arg(1, library.EQ, value))
    add("prlimit64", library.Arg(0, library.EQ, 0))  # of oneself alone, where limits only go down
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _adder(library: Any, rules: Any) -> Callable[..., None]:
    """Adds a rule unless this architecture lacks the call (libseccomp resolves such a name to a negative number)."""
    native = library.system_arch()

    def add(name: str, *arguments: object) -> None:
        if library.resolve_syscall(native, name) >= 0:
            rules.add_rule(library.ALLOW, name, *arguments)

    return add


def _library() -> Any:
    try:
        import pyseccomp  # loads the system's library, which may be missing
    except (ImportError, OSError, RuntimeError) as error:
        raise SeccompMissing(f"{error}; install libseccomp (Debian: libseccomp2) and moontune[serve]") from None
    return pyseccomp
