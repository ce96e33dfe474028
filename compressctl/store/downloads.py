"""Files at addresses, brought onto this machine: verified, and kept by their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compressctl.core.errors import CompressctlError, MachineError, UsageError
from compressctl.core.failures import refusal
from compressctl.core.private_folders import make_private
from compressctl.core.regular_files import check_regular, open_regular, read_regular
from compressctl.core.whole_files import FolderInWriting, write_whole
from compressctl.store.address import Address
from compressctl.store.cache_place import DOWNLOADS_LIMIT_BYTES, IN_USE_SECONDS, downloads
from compressctl.store.objects import LARGEST, Found, ask, read_into

_MOST_NOTE_BYTES = 1 << 16
_FILES = "files"
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True)
class Fetched:
    """path: of a file on this machine, for reading alone."""

    path: Path
    sha256: str


def fetch(address: Address, sha256: str | None = None, most_bytes: int = LARGEST) -> Fetched:
    """The file at an address. sha256: what it must have; where it is known, a kept copy is taken without asking anybody.

    Without it the store is asked whether the file has changed since it was brought. Raises UsageError for a file that is not there, is
    too large, or has another checksum, and for https without one; MachineError where nobody answers or the disk takes nothing.
    """
    if address.scheme == "https" and sha256 is None:
        raise UsageError(
            f"{address}: nobody says what this file must be", hint="give `sha256`, as `sha256sum` prints it"
        )
    if address.scheme == "file":
        return _local(address, sha256)
    sha256 = _legal(address, sha256)
    found = ask(address) if sha256 is None else None
    digest = sha256 or (_noted(found) if found is not None else None)
    kept = downloads()
    folder = kept.read(digest) if digest is not None else None
    if folder is not None and digest is not None:
        return Fetched(_only_file(folder), digest)
    try:
        make_private(kept.root)
        kept.trim(DOWNLOADS_LIMIT_BYTES, IN_USE_SECONDS)
        with FolderInWriting(kept.root) as room:
            digest = _download(address, room / "file", sha256, most_bytes)
            kept.write(digest, lambda entry: _keep({address.name: room / "file"}, entry))
    except OSError as error:
        raise refusal(error) or MachineError(f"{address} cannot be kept: {error}") from error
    if found is not None:
        note(found, digest)
    folder = kept.read(digest)
    if folder is None:
        raise MachineError(f"{address} was brought, and is gone from {kept.root}", hint="try again")
    return Fetched(_only_file(folder), digest)


def fetch_together(files: Mapping[str, tuple[Address, str | None]]) -> tuple[Path, Mapping[str, str]]:
    """A folder that holds several files under their names, and their checksums. Raises what `fetch` does."""
    fetched = {name: fetch(address, sha256) for name, (address, sha256) in files.items()}
    digests = {name: one.sha256 for name, one in fetched.items()}
    key = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    kept = downloads()
    try:
        if kept.read(key) is None:
            kept.write(key, lambda entry: _keep({name: one.path for name, one in fetched.items()}, entry))
    except OSError as error:
        raise refusal(error) or MachineError(f"{next(iter(files))} cannot be kept: {error}") from error
    folder = kept.read(key)
    if folder is None:
        raise MachineError(f"what was brought is gone from {kept.root}", hint="try again")
    return folder / _FILES, digests


def known(address: Address) -> str | None:
    """The checksum of what lies there now, where it was brought before: the store is asked whether it has changed. Raises what `fetch` does."""
    if address.scheme == "file":
        return _local(address, None).sha256
    return _noted(ask(address)) if address.scheme != "https" else None


def is_kept(sha256: str) -> bool:
    """Whether it can be had without asking anybody."""
    return sha256 in downloads()


def note(found: Found, sha256: str) -> None:
    """Remember which content an address has, for as long as its store says the same of it."""
    place = _note_of(found.address)
    if found.mark is None:
        return
    with suppress(OSError, CompressctlError):  # a cache that takes nothing is none
        make_private(place.parent)
        write_whole(place, [json.dumps({"mark": found.mark, "sha256": sha256}).encode()])


def _noted(found: Found) -> str | None:
    try:
        said = json.loads(read_regular(_note_of(found.address), _MOST_NOTE_BYTES))
        is_same = found.mark is not None and said["mark"] == found.mark and _SHA256.fullmatch(said["sha256"])
        return str(said["sha256"]) if is_same else None
    except (OSError, CompressctlError, ValueError, LookupError, TypeError):
        return None


def _note_of(address: Address) -> Path:
    return downloads().root / "addresses" / f"{hashlib.sha256(address.text.encode()).hexdigest()}.json"


def _local(address: Address, sha256: str | None) -> Fetched:
    """A file of this machine stays where it is."""
    path = Path(address.place)
    try:
        check_regular(path)
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{address} cannot be read: {error.strerror}") from error
    check_sha256(address.text, digest, sha256)
    return Fetched(path, digest)


def check_sha256(name: str, digest: str, expected: str | None) -> None:
    """Raises UsageError where a file is another than the one that was meant."""
    if expected is not None and digest != expected.lower():
        raise UsageError(
            f"{name} has the SHA-256 {digest}, and not {expected}",
            hint="it is another file than the one that was meant",
        )


def _download(address: Address, into: Path, sha256: str | None, most_bytes: int) -> str:
    with into.open("wb") as stream:
        digest = read_into(address, stream, most_bytes)
    check_sha256(address.text, digest, sha256)
    return digest


def _only_file(folder: Path) -> Path:
    return next((folder / _FILES).iterdir())


def _keep(files: Mapping[str, Path], entry: Path) -> None:
    """Each under its name: a second name for a file, or a copy where the disk has no such thing."""
    for name, file in files.items():
        target = entry / _FILES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)


def _legal(address: Address, sha256: str | None) -> str | None:
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise UsageError(f"{address}: {sha256[:80]} is no SHA-256", hint="it has 64 hexadecimal digits")
    return sha256.lower() if sha256 is not None else None
