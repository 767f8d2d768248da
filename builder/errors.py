"""The builder's one error: a line that names the cause and the cure. Knows no source and no token."""

import errno
from pathlib import Path


class BuildError(Exception):
    """The build cannot go on. Its text is one line for the operator and contains no secret."""


def disk_error(error: OSError, directory: Path) -> BuildError:
    """Turn an error of the file system into a line with its cure."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return BuildError(f"{directory}: the disk is full; make room, then run again: complete files are kept")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return BuildError(f"{error.filename or directory}: {error.strerror}; name a directory that can be written")
        case _:
            return BuildError(f"{error.filename or directory}: {error.strerror or error}")
