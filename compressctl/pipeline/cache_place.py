"""Where the caches lie."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from compressctl.core.cache import Cache
from compressctl.core.errors import NoCacheWarning


def stage_cache() -> Cache | None:
    """The cache of stages' outputs; None, with a warning, where there is no folder that could hold one."""
    root = cache_folder()
    if root is None:
        message = "nothing is kept in a cache: there is no home folder, and COMPRESSCTL_CACHE names no other"
        warnings.warn(message, NoCacheWarning, stacklevel=2)
        return None
    return Cache(root / "stages")


def cache_folder() -> Path | None:
    """Where COMPRESSCTL_CACHE says, or under the user's cache folder; None for a user without a home."""
    chosen = os.environ.get("COMPRESSCTL_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    found = user_cache_path("compressctl")
    # Where the system knows no home, "~" stays what it is: a folder of that name would be made in the working folder.
    return found if found.is_absolute() else None
