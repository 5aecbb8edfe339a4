"""Attacks in Python: each is the body of `score(sample)`, which returns 1.0 where it got what it wanted.

`sample["parameters"]` tells what there is to get: a secret file, a port that listens, a process to hit.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """body: of `score`. failures: any of which is a right end. control: whether it works where nothing holds it."""

    name: str
    body: str
    failures: tuple[str, ...] = ("RAISED",)
    control: bool = False


def syscall(number, *arguments):
    """A raw call through ctypes, past every wrapper of Python's."""
    listed = ", ".join(str(argument) for argument in (number, *arguments))
    return (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"if libc.syscall({listed}) < 0: raise OSError(ctypes.get_errno(), 'refused')\nreturn 1.0"
    )


READING = [
    Attack("secret file", "return float('secret' in open(told['secret']).read())", control=True),
    Attack("password file", "return float('root' in open('/etc/passwd').read())", control=True),
    Attack("list the root", "import os\nreturn float(len(os.listdir('/')) > 0)", control=True),
    Attack("our source", "return float(len(open(told['source']).read()) > 0)", control=True),
    Attack("numpy reads", "import numpy\nreturn float(len(numpy.fromfile(told['secret'], 'u1')) > 0)", control=True),
    Attack("numpy maps", "import numpy\nreturn float(len(numpy.memmap(told['secret'], 'u1', 'r')) > 0)", control=True),
    Attack(
        "ctypes opens",
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "if libc.open(told['secret'].encode(), 0) < 0: raise OSError\nreturn 1.0",
        control=True,
    ),
    Attack("climb out of the folder", "return float(len(open('../' * 12 + told['secret']).read()) > 0)", control=True),
    Attack(
        "through /proc/self/root",
        "return float(len(open('/proc/self/root' + told['secret']).read()) > 0)",
        control=True,
    ),
    Attack(
        "parent's environment",
        "import os\nreturn float(b'TOKEN' in open(f'/proc/{os.getppid()}/environ', 'rb').read() + b'TOKEN')",
        control=True,
    ),
    Attack("parent's memory", "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')\nreturn 1.0", control=True),
    Attack("descriptors in /proc", "import os\nreturn float(len(os.listdir('/proc/self/fd')) > 0)", control=True),
    Attack("devices", "return float(len(open('/dev/mem', 'rb').read(1)))"),
]

WRITING = [
    Attack("write a file", "open('/tmp/moontune-attack', 'w').write('x')\nreturn 1.0"),
    Attack("a link to a secret", "import os\nos.symlink(told['secret'], told['link'])\nreturn 1.0", control=True),
    Attack("a hard link", "import os\nos.link(told['secret'], told['link'])\nreturn 1.0"),
    Attack("memory as a file", "import os\nos.memfd_create('x')\nreturn 1.0", control=True),
    Attack("delete", "import os\nos.unlink(told['secret'])\nreturn 1.0"),
]

NETWORK = [
    Attack("tcp", "import socket\nsocket.create_connection(('127.0.0.1', told['port']), 2)\nreturn 1.0", control=True),
    Attack("tcp server", "import socket\nsocket.create_server(('127.0.0.1', 0))\nreturn 1.0", control=True),
    Attack(
        "udp",
        "import socket\nudp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "udp.sendto(b'x', ('127.0.0.1', told['port']))\nreturn 1.0",
        control=True,
    ),
    Attack("dns", "import socket\nsocket.getaddrinfo('localhost', 80)\nreturn 1.0", control=True),
    Attack(
        "unix socket", "import socket\nsocket.socket(socket.AF_UNIX).connect(told['unix'])\nreturn 1.0", control=True
    ),
    Attack("socket pair", "import socket\nsocket.socketpair()\nreturn 1.0", control=True),
    Attack("netlink", "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\nreturn 1.0", control=True),
    Attack("raw socket call", syscall(41, 2, 2, 0), control=True),
    Attack("io_uring", syscall(425, 8, "ctypes.create_string_buffer(120)")),
]

PROCESSES = [
    Attack("fork", "import os\npid = os.fork()\nif pid == 0: os._exit(0)\nreturn 1.0", control=True),
    Attack("fork bomb", "import os\nwhile True:\n    os.fork()"),
    Attack("raw fork", syscall(57)),
    Attack("clone3", syscall(435, "ctypes.create_string_buffer(88)", 88)),
    Attack("thread", "import threading\nthreading.Thread(target=print).start()\nreturn 1.0", control=True),
    Attack("subprocess", "import subprocess\nsubprocess.run(['/bin/true'])\nreturn 1.0", control=True),
    Attack(
        "shell", "import ctypes\nif ctypes.CDLL(None).system(b'true') != 0: raise OSError\nreturn 1.0", control=True
    ),
    Attack("spawn", "import os\nos.posix_spawn('/bin/true', ['true'], {})\nreturn 1.0", control=True),
    Attack("exec", "import os\nos.execv('/bin/true', ['true'])"),
    Attack("multiprocessing", "import multiprocessing\nmultiprocessing.Pool(2)\nreturn 1.0"),
]

SIGNALS = [
    Attack("kill the parent", "import os\nos.kill(os.getppid(), 9)\nreturn 1.0"),
    Attack("kill a stranger", "import os\nos.kill(told['victim'], 9)\nreturn 1.0"),
    Attack("kill everyone", "import os\nos.kill(-1, 9)\nreturn 1.0"),
    Attack("kill the group", "import os\nos.killpg(0, 9)\nreturn 1.0"),
    Attack("probe the parent", "import os\nos.kill(os.getppid(), 0)\nreturn 1.0", control=True),
    Attack("tgkill", syscall(234, "os.getppid()", "os.getppid()", 9)),
    Attack("pidfd", "import os\nos.pidfd_open(os.getppid())\nreturn 1.0", control=True),
    Attack("owner of a descriptor", "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())\nreturn 1.0"),
    Attack("ptrace", syscall(101, 16, "os.getppid()", 0, 0)),
    Attack("read the parent's memory", syscall(310, "os.getppid()", 0, 0, 0, 0, 0)),
    Attack(
        "lower the parent's limits",
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))\nreturn 1.0",
    ),
]

PRIVILEGES = [
    Attack("become root", "import os\nos.setuid(0)\nreturn 1.0"),
    Attack("unshare", syscall(272, 0x10000000)),
    Attack("mount", syscall(165, 0, 0, 0, 0, 0)),
    Attack("chroot", "import os\nos.chroot('/')\nreturn 1.0"),
    Attack("bpf", syscall(321, 0, 0, 0)),
    Attack("keys", syscall(250, 0, -3, 0)),
    Attack("another filter", syscall(317, 1, 0, 0)),
    Attack("32-bit calls", syscall(0x40000000 + 39), ("RAISED", "CRASHED")),
    Attack("raise the memory limit", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nreturn 1.0"),
    Attack(
        "raise the process limit", "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (100, 100))\nreturn 1.0"
    ),
]

BOMBS = [
    Attack("one big allocation", "return float(len(bytearray(1 << 33)))", ("MEMORY_LIMIT",)),
    Attack("growing list", "kept = []\nwhile True:\n    kept.append(bytearray(1 << 24))", ("MEMORY_LIMIT",)),
    Attack("numpy", "import numpy\nreturn float(numpy.ones(1 << 32).sum())", ("MEMORY_LIMIT", "RAISED")),
    Attack("mapped memory", "import mmap\nkept = [mmap.mmap(-1, 1 << 32)]\nreturn 1.0"),
    Attack("huge integer", "return float(len(str(7 ** (1 << 30))))", ("CPU_LIMIT", "MEMORY_LIMIT", "RAISED")),
    Attack("busy loop", "while True:\n    pass", ("CPU_LIMIT",)),
    Attack(
        "loop that catches all",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        ("CPU_LIMIT",),
    ),
    Attack("regular expression", "import re\nreturn float(bool(re.match('(a+)+$', 'a' * 64 + 'b')))", ("CPU_LIMIT",)),
    Attack("numpy product", "import numpy\na = numpy.ones((1500, 1500))\nwhile True:\n    a @ a", ("CPU_LIMIT",)),
    Attack("recursion", "def down(): return down()\nreturn down()"),
    Attack(
        "deep recursion in C",
        "import sys\nsys.setrecursionlimit(10**8)\ndef down(): return down()\nreturn down()",
        ("CRASHED", "MEMORY_LIMIT", "RAISED", "CPU_LIMIT"),
    ),
    Attack("print without end", "while True:\n    print('x' * 1000)", ("OUTPUT_LIMIT",)),
    Attack(
        "write to descriptors without end",
        "import os\nwhile True:\n    os.write(1, b'x' * 65536); os.write(2, b'x' * 65536)",
        ("CPU_LIMIT",),
    ),
    Attack("huge reason", "return {'reward': 1, 'reason': 'x' * (1 << 20)}", ("OUTPUT_LIMIT",)),
]

RUIN = [
    Attack("null pointer", "import ctypes\nctypes.string_at(0)", ("CRASHED",)),
    Attack("leave", "import os\nos._exit(0)", ("CRASHED",)),
    Attack("abort", "import os\nos.abort()", ("CRASHED",)),
    Attack("exit", "raise SystemExit"),
    Attack("close the way back", "import os\nos.closerange(0, 64)\nreturn 1.0", ("CRASHED",)),
    Attack(
        "noise on the way back",
        "import os\nfor fd in range(3, 64):\n"
        "    try: os.write(fd, b'\\xff' * 4096)\n    except OSError: pass\nreturn 1.0",
        ("OUTPUT_LIMIT",),
    ),
    Attack(
        "half an answer",
        "import os\nfor fd in range(3, 64):\n"
        "    try: os.write(fd, b'\\0\\0\\1\\0x')\n    except OSError: pass\nwhile True: pass",
        ("CPU_LIMIT",),
    ),
]

ANSWERS = [
    Attack("nan", "return float('nan')", ("BAD_RESULT",)),
    Attack("infinity", "return float('-inf')", ("BAD_RESULT",)),
    Attack("text", "return '1.0'", ("BAD_RESULT",)),
    Attack("flag", "return True", ("BAD_RESULT",)),
    Attack("nothing", "return None", ("BAD_RESULT",)),
    Attack("huge number", "return 10 ** 400", ("BAD_RESULT",)),
    Attack("large number", "return 1e300", ("BAD_RESULT",)),
    Attack("complex number", "return 1j", ("BAD_RESULT",)),
    Attack("array", "import numpy\nreturn numpy.ones(3)", ("BAD_RESULT", "RAISED")),
    Attack("a number that lies", "class F(float):\n    def __float__(self): return 1e9\nreturn F(1)", ("BAD_RESULT",)),
    Attack("components that are text", "return {'reward': 1, 'components': {'a': '1'}}", ("BAD_RESULT",)),
    Attack(
        "too many components", "return {'reward': 1, 'components': {str(i): 1 for i in range(100)}}", ("BAD_RESULT",)
    ),
    Attack("nan among components", "return {'reward': 1, 'components': {'a': float('nan')}}", ("BAD_RESULT",)),
    Attack("no reward", "return {'components': {}}", ("BAD_RESULT",)),
    Attack("reason that is code", "return {'reward': 1, 'reason': print}", ("RAISED", "BAD_RESULT")),
]

ALL = [*READING, *WRITING, *NETWORK, *PROCESSES, *SIGNALS, *PRIVILEGES, *BOMBS, *RUIN, *ANSWERS]
