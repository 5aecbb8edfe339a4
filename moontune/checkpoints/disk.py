"""What a disk refuses, as an error of ours."""

import errno

from moontune.errors import MoontuneError, ResourceExhausted, Unavailable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSALS = FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""What a disk says, as against a connection or a mistake of ours."""


def disk_error(error: OSError, doing: str) -> MoontuneError:
    """ResourceExhausted for a full disk or quota, Unavailable for anything else (read-only, no permission, broken).

    doing: what could not be done, as the beginning of a sentence: "step 4 cannot be written".
    """
    if error.errno in FULL:
        return ResourceExhausted(f"{doing}: the disk is full or over its quota ({error}); free space and call again")
    return Unavailable(f"{doing}: {error}")
