"""Entry of a jail: `python -c "... start.main()"`; the set-up comes on standard input.

Everything that user code may import comes from folders that Landlock leaves readable; the engine itself is loaded
before the walls are up. The first frame out is the hello: every layer with what is said of it, or the missing one.
"""

import importlib
import os
import posix
import sys
from json import dumps, loads
from typing import Any, cast

from services.reward.sandbox.inside import confine, frames, zygote

PYTHON_MODULES = (
    "numpy "
    "array bisect calendar cmath collections.abc copy datetime decimal difflib fractions functools hashlib heapq "
    "html itertools json math numbers operator random re statistics string textwrap typing unicodedata"
)


def main() -> None:
    """Confine this process and serve batches until standard input ends."""
    setup = loads(frames.read_frame(0))
    outer_filter, inner_filter = frames.read_frame(0), frames.read_frame(0)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    grade = _engine(setup["language"], setup["packages"])
    sys.path.remove(setup["root"])
    try:
        layers = _walls(setup, outer_filter)
    except confine.LayerMissing as missing:
        frames.write_frame(1, dumps({"missing": missing.layer, "why": missing.why}).encode())
        return
    frames.write_frame(1, dumps({"layers": layers}).encode())
    zygote.serve(grade, inner_filter, null)


def _engine(language: str, packages: str) -> zygote.Grade:
    """The language's grader, with what it needs already imported: user code starts warm, and forks share the pages."""
    sys.path.append(packages)
    if language == "javascript":
        return importlib.import_module("services.reward.sandbox.inside.javascript_code").grade
    for name in PYTHON_MODULES.split():
        importlib.import_module(name)
    return importlib.import_module("services.reward.sandbox.inside.python_code").grade


def _walls(setup: dict[str, Any], outer_filter: bytes) -> dict[str, str]:
    if not setup["confined"]:
        confine.measure_memory()
        return {}
    _import_from_here(setup["library"])
    return confine.confine(confine.Walls(tuple(setup["readable"]), outer_filter))


def _import_from_here(library: str) -> None:
    """Let later imports find the standard library by relative paths.

    The interpreter may lie below a folder that only root may enter (`/root/.pyenv`, say). A working directory that
    was entered before root was left stays usable; absolute paths do not. importlib makes paths absolute by
    `posix.getcwd`, and by nothing else.
    """
    os.chdir(library)
    posix.getcwd = lambda: "."
    sys.path[:] = [".", "./lib-dynload", sys.path[-1]]
    for module in list(sys.modules.values()):
        paths: Any = getattr(module, "__path__", None)
        if type(paths) is list:
            paths[:] = [_relative(path, library) for path in cast("list[str]", paths)]
    sys.path_importer_cache.clear()


def _relative(path: str, library: str) -> str:
    return f".{path.removeprefix(library)}" if path.startswith(library + "/") else path
