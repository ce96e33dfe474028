"""Where the caches lie."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import tempfile
import warnings
from pathlib import Path

from compressctl.core.cache import Cache
from compressctl.core.errors import NoCacheWarning, UsageError
from compressctl.core.private_folders import who_else_may_change
from compressctl.store.address import parse
from compressctl.store.shared_cache import SharedCache, SharedPlace

TRUST = "COMPRESSCTL_TRUST_CACHE"
"""The environment variable that lets a cache be used which others can write to, when it is 1."""


SHARED, SHARED_MODE = "COMPRESSCTL_SHARED_CACHE", "COMPRESSCTL_SHARED_CACHE_MODE"
"""The environment variables that name a cache which several machines share, and say whether entries are put there."""

DOWNLOADS_LIMIT_BYTES = 20 * 1024**3
IN_USE_SECONDS = 24 * 3600
"""A file that was brought for a run is read until that ends."""


def stage_cache() -> Cache | None:
    """The cache of stages' outputs; None, with a warning, where no folder could hold one, or others can write to it.

    Where the environment names a shared cache, it stands behind a folder of its own: what others put there is no part of runs that do
    not name it. Raises UsageError for a shared cache that is none.
    """
    place = shared_place()
    if place is None:
        return _cache("stages", "nothing is kept in a cache")
    own = hashlib.sha256(place.address.text.encode()).hexdigest()[:32]
    local = _cache(f"shared/{own}", "nothing is kept in a cache, and the shared one is not used")
    return SharedCache(local.root, place, trusts_others=trusts_others()) if local is not None else None


def shared_place() -> SharedPlace | None:
    """What the environment says of a shared cache. Raises UsageError."""
    address, mode = os.environ.get(SHARED), os.environ.get(SHARED_MODE) or "write"
    if not address:
        return None
    if mode not in ("read", "write"):
        raise UsageError(f"{SHARED_MODE} is {mode!r}", hint="write read or write")
    return SharedPlace(parse(address), "read" if mode == "read" else "write")


def use_shared_cache(address: str | None, mode: str | None) -> None:
    """For this process and all that it starts. Raises UsageError for a shared cache that is none."""
    for name, value in ((SHARED, address), (SHARED_MODE, mode)):
        if value is not None:
            os.environ[name] = value
    shared_place()


def trusts_others() -> bool:
    return os.environ.get(TRUST) == "1"


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
    reason = None if trusts_others() else who_else_may_change(folder)
    if reason is not None:
        message = (
            f"nothing is read from the cache or kept in it: {reason}, and whoever can write there decides what a run gives; "
            f"make {root} yours alone (chown, chmod go-w), name another folder in COMPRESSCTL_CACHE, or set {TRUST}=1"
        )
        warnings.warn(message, NoCacheWarning, stacklevel=3)
        return None
    return Cache(folder, trusts_others=trusts_others())


def cache_folder() -> Path | None:
    """Where COMPRESSCTL_CACHE says, or under the user's cache folder; None for a user without a home."""
    chosen = os.environ.get("COMPRESSCTL_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    found = user_cache_path("compressctl")
    # Where the system knows no home, "~" stays what it is: a folder of that name would be made in the working folder.
    return found if found.is_absolute() else None
