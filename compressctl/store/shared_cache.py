"""A cache that several machines share, with one on this machine in front of it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressctl.core.cache import MANIFEST, Cache
from compressctl.core.errors import CompressctlError, NoCacheWarning, UsageError
from compressctl.core.failures import unusable
from compressctl.core.private_folders import make_private
from compressctl.core.whole_files import FolderInWriting
from compressctl.store.address import Address, parse
from compressctl.store.archive import DamagedError, pack, unpack
from compressctl.store.objects import abort_unfinished, exists, listed, put, read_into, remove

Mode = Literal["read", "write"]

LARGEST_ENTRY = 10 * 1024**3
"""Bytes of an entry that is taken or given."""

_LEFT_SECONDS = 24 * 3600
"""An upload that began a day ago is nobody's any more."""

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SharedPlace:
    """address: of a folder. mode: whether entries are put there, or taken alone."""

    address: Address
    mode: Mode = "write"

    def __post_init__(self) -> None:
        if not self.address.is_writable:
            raise UsageError(f"{self.address} cannot hold a cache", hint="name a folder of s3://, gs:// or file://")

    def entry(self, key: str) -> Address:
        return self.address.below(f"stages/{key[:2]}/{key}")


class SharedCache(Cache):
    """Entries are looked for on this machine, then at the place, from which they are brought; what is made is put there too.

    The place is asked no more when it does not answer: a run without it gives the same. An entry that is damaged there is made again.
    """

    def __init__(self, root: Path, place: SharedPlace, *, trusts_others: bool = False) -> None:
        super().__init__(root, trusts_others=trusts_others)
        self._local = Cache(root, trusts_others=trusts_others)
        self._place = place
        self._is_off = False
        self._damaged: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._local or self._is_there(key)

    def read(self, key: str) -> Path | None:
        found = self._local.read(key)
        if found is not None:
            self._share(key)  # whoever made it may have been killed before it was there, too
            return found
        if not self._is_there(key):
            return None
        try:
            self._bring(key)
        except DamagedError as error:
            self._damaged.add(key)
            self._warn(f"an entry of the shared cache is damaged and is not used: {self._place.entry(key)}: {error}")
            return None
        except (CompressctlError, OSError) as error:
            self._do_without(error)
            return None
        return self._local.read(key)

    def write(self, key: str, fill: Callable[[Path], None]) -> None:
        self._local.write(key, fill)
        self._share(key)

    def _share(self, key: str) -> None:
        """Put an entry of this machine there, where that is allowed and it is missing."""
        if self._place.mode == "read" or self._is_off or self._is_there(key):
            return
        try:
            with FolderInWriting(self.root) as room:
                archive = room / "archive"
                with archive.open("wb") as stream:
                    pack(self.root / key, key, stream, without=MANIFEST)
                if archive.stat().st_size <= LARGEST_ENTRY:
                    put(self._place.entry(key), archive)
                    self._damaged.discard(key)
        except (CompressctlError, OSError) as error:
            self._do_without(error)

    def remove(self, key: str) -> None:
        """On this machine; at the place it counts as damaged from now on."""
        self._local.remove(key)
        self._damaged.add(key)

    def _is_there(self, key: str) -> bool:
        if self._is_off or key in self._damaged or not _KEY.fullmatch(key):
            return False
        try:
            return exists(self._place.entry(key))
        except CompressctlError as error:
            self._do_without(error)
            return False

    def _bring(self, key: str) -> None:
        make_private(self.root)
        with FolderInWriting(self.root) as room:
            with (room / "archive").open("wb") as stream:
                try:
                    read_into(self._place.entry(key), stream, LARGEST_ENTRY)
                except UsageError as error:
                    raise DamagedError(error.message) from error
            self._local.write(key, lambda folder: unpack(room / "archive", key, folder))

    def _do_without(self, error: Exception) -> None:
        reason = error if isinstance(error, CompressctlError) else unusable(error)
        if reason is None:
            raise error
        self._is_off = True
        self._warn(f"the shared cache is not used from here on: {reason.message}")

    def _warn(self, message: str) -> None:
        warnings.warn(message, NoCacheWarning, stacklevel=3)


@dataclass(frozen=True)
class Trimmed:
    """entries, size: what is left. removed: entries that are gone."""

    entries: int
    size: int
    removed: int


def trim(address: str, limit_bytes: int | None) -> Trimmed:
    """Remove entries from a shared cache, those that were put there first, until the rest fits; None removes none.

    Ends what uploads left unfinished a day ago. Raises what asking the store raises.
    """
    place = SharedPlace(parse(address))
    folder = place.address.below("stages")
    if limit_bytes is not None:
        abort_unfinished(folder, _LEFT_SECONDS)
    found = [one for one in listed(folder) if _KEY.fullmatch(one.address.name)]
    total = kept = 0
    for one in sorted(found, key=lambda one: one.modified or 0.0, reverse=True):
        size = one.size or 0
        if limit_bytes is not None and total + size > limit_bytes:
            remove(one.address)
            continue
        total, kept = total + size, kept + 1
    return Trimmed(kept, total, len(found) - kept)
