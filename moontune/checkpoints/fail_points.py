"""Named places where a process can be made to die, for tests of durability. Inert unless the environment names one.

MOONTUNE_FAIL_POINT=<name>       kill -9 of this process when it comes to that place the first time
MOONTUNE_FAIL_POINT=<name>:<n>   the n-th time, 1 is the first

Nothing is run on the way out, as in a power cut of this process: no handler, no `finally`, no flush. FAIL_POINTS is the
whole list; a place that is not on it is a mistake, and so is a setting that names none of them.
"""

import os
import signal
from collections import Counter

from moontune.errors import InvalidField

VARIABLE = "MOONTUNE_FAIL_POINT"

FAIL_POINTS = (
    "folder.written",  # a step's or checkpoint's files are there under the temporary name, not yet flushed
    "folder.flushed",  # flushed, not yet renamed
    "folder.renamed",  # under its final name, nobody refers to it yet
    "create.in-transaction",  # a new finetune's rows are written, not committed
    "step.computed",  # the worker has answered, nothing is committed
    "step.in-transaction",
    "step.committed",  # on the disk, not yet answered
    "save.staged",  # the checkpoint's copy is made
    "store.file",  # one file is in the object store
    "store.before-manifest",  # every file but the manifest is in the object store
    "save.stored",  # the store holds it, the list does not
    "save.in-transaction",
    "save.committed",
    "remove.manifest",  # a checkpoint's manifest is gone, its files are not
    "remove.files",  # its files are gone too, the list still has it
    "remove.in-transaction",
    "delete.in-transaction",
    "delete.committed",  # a finetune is off the list, its files are all there
    "restore.fetched",  # a checkpoint's files are in a local folder
    "restore.in-transaction",
    "restore.committed",
)

_reached: Counter[str] = Counter()


def fail_point(name: str) -> None:
    """Die here if the environment says so; else nothing."""
    wanted = fail_point_setting()
    if wanted is None:
        return
    assert name in FAIL_POINTS, name
    place, count = wanted
    if place != name:
        return
    _reached[name] += 1
    if _reached[name] == count:
        os.kill(os.getpid(), signal.SIGKILL)


def fail_point_setting() -> tuple[str, int] | None:
    """The place that the environment names, and which time; InvalidField for one that is none."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return None
    place, _, count = wanted.partition(":")
    if place not in FAIL_POINTS or not (count or "1").isdecimal():
        raise InvalidField.of(VARIABLE, wanted, f"<name> or <name>:<n>, one of {', '.join(FAIL_POINTS)}")
    return place, int(count or "1")
