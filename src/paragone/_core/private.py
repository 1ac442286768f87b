"""Files and folders that no other user of the machine may have made or may change.

A cache of compiled code is a program: whoever can write there runs code as the one who reads it.
In a shared folder such as `/tmp` a name that is known beforehand may have been taken by another
user, as a file of his or as a link to a file of ours.
"""

import os
import stat
from pathlib import Path

__all__ = ["closed_to_others", "open_private", "private_folder"]


def closed_to_others(folder: str | os.PathLike[str], *owners: int) -> bool:
    """Whether a folder belongs to this user, to root or to `owners`, and not all may write there.

    Args:
        folder: An existing folder.
        owners: Numbers of further users that are trusted.
    """
    if not hasattr(os, "geteuid"):
        return True
    found = os.stat(folder)
    return found.st_uid in (os.geteuid(), 0, *owners) and not found.st_mode & stat.S_IWOTH


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Makes a folder that only this user enters, or takes it if it is one.

    Raises:
        PermissionError: It is a link, another user's, or open to all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or not closed_to_others(path):
        raise PermissionError(f"{path} is not this user's alone; remove it, or set TMPDIR")
    return path


def open_private(path: str | os.PathLike[str]) -> int:
    """Opens a file for reading and writing and follows no link; returns its descriptor.

    Raises:
        OSError: The path is a link, or another user's file.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags, 0o600)
