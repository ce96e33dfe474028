"""Where the caches lie."""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
import warnings
from pathlib import Path

from compressctl.core.cache import Cache
from compressctl.core.errors import NoCacheWarning
from compressctl.core.private_folders import who_else_may_change

TRUST = "COMPRESSCTL_TRUST_CACHE"
"""The environment variable that lets a cache be used which others can write to, when it is 1."""


DOWNLOADS_LIMIT_BYTES = 20 * 1024**3
IN_USE_SECONDS = 24 * 3600
"""A file that was brought for a run is read until that ends."""


def stage_cache() -> Cache | None:
    """The cache of stages' outputs; None, with a warning, where no folder could hold one, or others can write to it."""
    return _cache("stages", "nothing is kept in a cache")


def downloads() -> Cache:
    """Where files that were brought from elsewhere are kept, by their content: for this process alone where no cache can be used."""
    kept = _cache("downloads", "what was downloaded is not kept")
    return kept if kept is not None else _for_this_process()


@functools.cache
def _for_this_process() -> Cache:
    folder = tempfile.TemporaryDirectory(prefix="compressctl-downloads-")
    atexit.register(folder.cleanup)
    return Cache(Path(folder.name))


def _cache(name: str, otherwise: str) -> Cache | None:
    root = cache_folder()
    if root is None:
        message = f"{otherwise}: there is no home folder, and COMPRESSCTL_CACHE names no other"
        warnings.warn(message, NoCacheWarning, stacklevel=3)
        return None
    folder = root / name
    trusts_others = os.environ.get(TRUST) == "1"
    reason = None if trusts_others else who_else_may_change(folder)
    if reason is not None:
        message = (
            f"nothing is read from the cache or kept in it: {reason}, and whoever can write there decides what a run gives; "
            f"make {root} yours alone (chown, chmod go-w), name another folder in COMPRESSCTL_CACHE, or set {TRUST}=1"
        )
        warnings.warn(message, NoCacheWarning, stacklevel=3)
        return None
    return Cache(folder, trusts_others=trusts_others)


def cache_folder() -> Path | None:
    """Where COMPRESSCTL_CACHE says, or under the user's cache folder; None for a user without a home."""
    chosen = os.environ.get("COMPRESSCTL_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    found = user_cache_path("compressctl")
    # Where the system knows no home, "~" stays what it is: a folder of that name would be made in the working folder.
    return found if found.is_absolute() else None
