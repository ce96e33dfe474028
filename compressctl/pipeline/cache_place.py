"""Where the stage cache lies."""

from __future__ import annotations

import os
from pathlib import Path

from compressctl.core.cache import Cache


def stage_cache() -> Cache:
    """Under the user's cache folder, or where COMPRESSCTL_CACHE says."""
    chosen = os.environ.get("COMPRESSCTL_CACHE")
    if chosen:
        return Cache(Path(chosen) / "stages")
    from platformdirs import user_cache_path

    return Cache(user_cache_path("compressctl") / "stages")
