"""How a jail is started: the command, its environment, and what it is told on standard input."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moontune.values.reward_definition import CodeLanguage
from moontune.values.sandbox import SandboxProfile
from services.reward.sandbox import seccomp

ROOT = Path(__file__).resolve().parents[3]
"""The folder that holds `services`."""

ENVIRONMENT: Mapping[str, str] = {
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
"""All that a jail's environment holds: one thread, and the same order of sets everywhere."""

SHARED_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
PACKAGE_OF = {CodeLanguage.PYTHON: "numpy", CodeLanguage.JAVASCRIPT: "_quickjs"}


@dataclass(frozen=True, slots=True)
class JailSetup:
    """A command, its environment, and the three frames that it reads first."""

    command: tuple[str, ...]
    frames: tuple[bytes, ...]


class LanguageMissing(Exception):
    """The language's engine is not installed."""


def jail_setup(language: CodeLanguage, profile: SandboxProfile) -> JailSetup:
    """The set-up of a jail for one language. Raises SeccompMissing, LanguageMissing, or FileNotFoundError (bwrap)."""
    engine = _engine(language)
    package = engine.parents[1] if engine.name == "__init__.py" else engine.parent
    library = Path(os.__file__).resolve().parent
    confined = profile is not SandboxProfile.TRUSTED
    readable = _readable(engine, library)
    told = {
        "language": language.value,
        "confined": confined,
        "packages": str(package),
        "library": str(library),
        "readable": readable,
        "root": str(ROOT),
    }
    filters = (seccomp.zygote_filter(), seccomp.batch_filter()) if confined else (b"", b"")
    command = _interpreter()
    if profile is SandboxProfile.HOST:
        command = (*_bubblewrap([*readable, str(library.parent), sys.base_prefix, str(ROOT / "services")]), *command)
    return JailSetup(command, (json.dumps(told).encode(), *filters))


def _interpreter() -> tuple[str, ...]:
    """Python without site, user folders, environment of its own or bytecode to write."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from services.reward.sandbox.inside.start import main; "
    return (str(Path(sys.executable).resolve()), "-P", "-s", "-S", "-B", "-c", start + "main()")


def _engine(language: CodeLanguage) -> Path:
    """The file that importing the language's engine loads first."""
    found = importlib.util.find_spec(PACKAGE_OF[language])
    if found is None or found.origin is None:
        raise LanguageMissing(f"{PACKAGE_OF[language]} is not installed; install moontune[serve]")
    return Path(found.origin).resolve()


def _readable(engine: Path, library: Path) -> list[str]:
    """What Landlock leaves visible: the standard library, the engine with its wheel's libraries, and shared ones."""
    package = engine.parent
    own = [package, package.with_name(f"{package.name}.libs")] if engine.name == "__init__.py" else [engine]
    return [str(path) for path in (library, *own, *SHARED_LIBRARIES)]


def _bubblewrap(visible: Sequence[str]) -> tuple[str, ...]:
    """New namespaces of every kind, an empty root with only these read-only, and nobody inside."""
    program = shutil.which("bwrap")
    if program is None:
        raise FileNotFoundError("bwrap is not installed (Debian: bubblewrap)")
    flags = "--unshare-all --unshare-user --disable-userns --die-with-parent --new-session --clearenv --cap-drop ALL"
    binds = [part for path in dict.fromkeys(visible) if Path(path).exists() for part in ("--ro-bind", path, path)]
    kept = [part for name, value in ENVIRONMENT.items() for part in ("--setenv", name, value)]
    user = ("--uid", "65534", "--gid", "65534")
    return (program, *flags.split(), *user, "--proc", "/proc", "--dev", "/dev", *binds, *kept, "--chdir", "/", "--")
