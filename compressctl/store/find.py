"""Which files at addresses fit a pattern such as `s3://bucket/models/**/*.onnx`."""

from __future__ import annotations

import re

from compressctl.core.errors import UsageError
from compressctl.store.address import Address, parse
from compressctl.store.objects import Found, listed

_MAGIC = re.compile(r"[*?\[]")
_MOST_SEEN = 1_000_000


def find(pattern: Address, most: int) -> list[Found]:
    """By place. `*` and `?` stay within a step, `**` is any number of steps.

    Raises UsageError for a pattern that more than `most` files fit, or for which more than a million are to be looked at, and what
    asking the store raises.
    """
    if pattern.scheme == "https":
        raise UsageError(f"{pattern}: a web server does not tell what it has", hint="name each file")
    from fsspec.utils import glob_translate

    folder = fixed_place(pattern)
    fits = re.compile(glob_translate(pattern.place))
    found: list[Found] = []
    for count, one in enumerate(listed(folder)):
        if fits.match(one.address.place):
            found.append(one)
        if len(found) > most or count >= _MOST_SEEN:
            raise UsageError(
                f"more than {min(most, _MOST_SEEN):,} files are to be looked at for {pattern}",
                hint="name the folder and the ending, as in s3://bucket/models/*.onnx",
            )
    return sorted(found, key=lambda one: one.address.place)


def fixed_place(pattern: Address) -> Address:
    """The folder before the first step with a wildcard. Raises UsageError where that is no bucket even."""
    steps = pattern.place.split("/")
    first = next((number for number, step in enumerate(steps) if _MAGIC.search(step)), len(steps) - 1)
    if not any(steps[:first]):
        raise UsageError(f"{pattern}: name the bucket", hint="as in s3://bucket/models/*.onnx")
    return parse(f"{pattern.scheme}://{'/'.join(steps[:first])}")
