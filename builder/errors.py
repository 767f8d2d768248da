"""The builder's one error: a line with the cause and the cure. Knows no source and no token."""

import errno
from pathlib import Path


class BuildError(Exception):
    """The build cannot go on; one line for the operator, without a secret in it."""


def of_disk(error: OSError, directory: Path) -> BuildError:
    """What the system says about a disk, with what to do about it."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return BuildError(f"{directory}: the disk is full; make room, then run again: it goes on where it stopped")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return BuildError(f"{error.filename or directory}: {error.strerror}; name a directory that can be written")
        case _:
            return BuildError(f"{error.filename or directory}: {error.strerror or error}")
