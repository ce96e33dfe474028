"""Folders that nobody but their owner may change: what lies in a cache decides what a run does."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_ROOT = 0


def make_private(folder: Path) -> None:
    """Create a folder and those around it that are missing, for this user alone. One that is there stays as it is. Raises OSError."""
    for missing in reversed([folder, *folder.parents]):
        if not missing.is_dir():
            missing.mkdir(mode=stat.S_IRWXU, exist_ok=True)


def is_private(found: os.stat_result) -> bool:
    """Whether a file or folder is this user's or root's, and no one else may change it."""
    return _is_trusted(found.st_uid) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def who_else_may_change(folder: Path) -> str | None:
    """In words, who but this user can put files into a folder, or another folder in its place; None where nobody can.

    The folder need not be there yet. Root can do everything, and is trusted; a folder with the sticky bit, as /tmp, lets
    others put no folder in the place of one of ours.
    """
    if not hasattr(os, "geteuid"):
        return None
    real = Path(os.path.realpath(folder))
    for place in (real, *real.parents):
        try:
            found = place.stat()
        except FileNotFoundError:
            continue
        except OSError:
            return None  # it cannot be used either, which is told elsewhere
        if not _is_trusted(found.st_uid):
            return f"{place} belongs to another user ({_user(found.st_uid)})"
        is_safe_for_what_is_in_it = bool(found.st_mode & stat.S_ISVTX) and place != real
        if found.st_mode & stat.S_IWOTH and not is_safe_for_what_is_in_it:
            return f"everybody can write to {place}"
        if found.st_mode & stat.S_IWGRP and not is_safe_for_what_is_in_it and not _is_own_group(found.st_gid):
            return f"the group {_group(found.st_gid)} can write to {place}"
    return None


def _is_trusted(user: int) -> bool:
    return not hasattr(os, "geteuid") or user in (os.geteuid(), _ROOT)


def _is_own_group(number: int) -> bool:
    """A group of this user alone, which many systems give everybody: named like the user, without members."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except (KeyError, OSError):
        return False
    return number == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OSError):
        return str(number)


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except (KeyError, OSError):
        return str(number)
