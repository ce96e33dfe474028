"""Files at addresses, through fsspec: asked about, read, put whole, listed, removed. Their libraries' errors become ours."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from compressctl.core.errors import CompressctlError, MachineError, MissingDependencyError, UsageError, in_short
from compressctl.core.failures import chain, refusal
from compressctl.core.regular_files import check_regular, open_regular
from compressctl.core.whole_files import FileInWriting
from compressctl.store.address import WRITABLE, Address, parse
from compressctl.store.web import open_https

LARGEST = 64 * 1024**3
"""Bytes of a file that is brought from elsewhere."""

_BLOCK = 4 * 1024**2
_LIBRARIES = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "hf": ("huggingface_hub", "hub"),
}
_PARTS: Mapping[str, Any] = {"chunksize": 16 * 1024**2, "max_concurrency": 2}
"""Of large files to S3: what is in memory at once."""

_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 60}
"""Seconds."""

_MARKS, _WEAK_MARKS = (
    ("ETag", "etag", "blob_id", "generation"),
    ("version_id", "LastModified", "updated", "mtime", "created"),
)
"""What file systems say of a file that is another when it has changed: one of the first says all, else all of the second."""

_MOMENTS = ("LastModified", "updated", "mtime", "created")
_LATER = (408, 425, 429)
"""Statuses that say to come again."""

_NOT_THERE = {"FileNotFoundError", "NotADirectoryError", "RepositoryNotFoundError", "RevisionNotFoundError"}
_NOT_LET_IN = {
    "PermissionError", "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "ProfileNotFound", "DefaultCredentialsError", "GatedRepoError",
}  # fmt: skip
_MISTAKEN = {"ParamValidationError", "ValueError", "NotImplementedError", "IsADirectoryError", "HFValidationError"}


@dataclass(frozen=True)
class Found:
    """What a store says of a file. mark: differs when the file does; None where the store says nothing that would. modified: seconds since 1970."""

    address: Address
    size: int | None
    mark: str | None
    modified: float | None


def ask(address: Address) -> Found:
    """Raises UsageError where there is no such file or nobody lets us in, MachineError where nobody answers."""
    with _told(address):
        said = _system(address).info(address.place)
    if said.get("type") == "directory":
        raise UsageError(f"{address} is a folder", hint="name a file in it")
    return _found(address, said)


def exists(address: Address) -> bool:
    """Raises what `ask` does where it cannot be said."""
    with _told(address):
        try:
            return bool(_system(address).info(address.place)["type"] == "file")
        except FileNotFoundError:
            return False


def read_into(address: Address, stream: BinaryIO, most_bytes: int = LARGEST) -> str:
    """Write all of a file to a stream; returns its SHA-256. Reads no more than most_bytes.

    Raises what `ask` does, UsageError for what is larger, MachineError for what was cut short, and OSError of the stream's.
    """
    if address.scheme == "file":
        with _told(address):
            check_regular(Path(address.place))
    source, expected = _opened(address)
    if expected is not None and expected > most_bytes:
        source.close()
        raise _too_large(address, most_bytes)
    digest, count = hashlib.sha256(), 0
    try:
        while True:
            with _told(address):
                block = source.read(_BLOCK)
            if not block:
                break
            count += len(block)
            if count > most_bytes:
                raise _too_large(address, most_bytes)
            digest.update(block)
            stream.write(block)
    finally:
        with _told(address):
            source.close()
    if expected is not None and count != expected:
        raise MachineError(f"{address}: {count:,} of {expected:,} bytes came", hint="try again")
    return digest.hexdigest()


def _opened(address: Address) -> tuple[Any, int | None]:
    """A stream, and how many bytes it should have where somebody says so."""
    if address.scheme == "https":
        with _told(address):
            return open_https(address.text)
    expected = ask(address).size
    with _told(address):
        return _system(address).open(address.place, "rb"), expected


def read(address: Address, most_bytes: int) -> bytes:
    """All of a small file. Raises what read_into does."""
    content = io.BytesIO()
    read_into(address, content, most_bytes)
    return content.getvalue()


def put(address: Address, file: Path) -> None:
    """Write a file to an address: whoever reads finds the one before or all of this one.

    Raises UsageError for a place that takes no files, and what `ask` does.
    """
    _check_writable(address)
    check_regular(file)
    if address.scheme == "file":
        target = Path(address.place)
        with _told(address):
            target.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(file) as source, FileInWriting(target) as written:
            while block := source.read(_BLOCK):
                written.stream.write(block)
            written.keep()
        return
    with _told(address):
        _system(address).put_file(str(file), address.place, **(_PARTS if address.scheme == "s3" else {}))


def remove(address: Address) -> None:
    """A file that may be gone already. Raises what `ask` does otherwise."""
    _check_writable(address)
    with _told(address):
        try:
            _system(address).rm_file(address.place)
        except FileNotFoundError:
            return


def listed(folder: Address) -> Iterator[Found]:
    """All files below it, folder by folder; none where nothing is there. Raises what `ask` does otherwise."""
    system = _system(folder)
    walk = system.walk(folder.place.rstrip("/"), detail=True, on_error="raise")
    while True:
        with _told(folder):
            try:
                place, _, files = next(walk)
            except StopIteration:
                return
            except FileNotFoundError:
                return
        for name in sorted(files):
            if name and not files[name].get("islink"):
                yield _found(_inside(folder, f"{str(place).rstrip('/')}/{name}"), files[name])


def abort_unfinished(folder: Address, older_seconds: float = 0.0) -> int:
    """End uploads of large files that killed writers began below a folder: no reader sees them, and they are paid for.

    Returns how many there were. Raises what `ask` does.
    """
    if folder.scheme != "s3":
        return 0
    bucket, _, key = folder.place.rstrip("/").partition("/")
    system = _system(folder)
    count = 0
    with _told(folder):
        found = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/" if key else "")
        for upload in found.get("Uploads", ()):
            if (datetime.now(UTC) - upload["Initiated"]).total_seconds() >= older_seconds:
                system.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                count += 1
    return count


def _system(address: Address) -> Any:
    return _system_of(address.scheme)


@cache
def _system_of(scheme: str) -> Any:
    """The library's file system. Raises MissingDependencyError."""
    library, extra = _LIBRARIES.get(scheme, ("fsspec", "s3"))
    try:
        import fsspec

        return fsspec.filesystem(scheme, **_options(scheme))
    except ImportError as error:
        install = f"pip install 'compressctl[{extra}]'"
        raise MissingDependencyError(f"what lies at {scheme}:// addresses", library, install) from error
    except Exception as error:  # of its settings, which stand in files and in the environment
        raise UsageError(f"{scheme}:// addresses cannot be read: {in_short(error)}") from error


def _options(scheme: str) -> dict[str, Any]:
    if scheme == "s3":
        return {"use_listings_cache": False, "config_kwargs": {**_TIMEOUTS, "retries": {"max_attempts": 3}}}
    return {"use_listings_cache": False} if scheme in ("gs", "hf") else {}


def _found(address: Address, said: Mapping[str, Any]) -> Found:
    size = said.get("size")
    strong = [str(said[name]) for name in _MARKS if said.get(name) is not None]
    marks = strong[:1] or [f"{name} {said[name]}" for name in _WEAK_MARKS if said.get(name) is not None]
    return Found(
        address,
        int(size) if size is not None else None,
        json.dumps([size, marks]) if marks else None,
        next((moment for name in _MOMENTS if (moment := _seconds(said.get(name))) is not None), None),
    )


def _seconds(moment: Any) -> float | None:
    if isinstance(moment, datetime):
        return moment.timestamp()
    if isinstance(moment, str):
        try:
            return datetime.fromisoformat(moment).timestamp()
        except ValueError:
            return None
    return float(moment) if isinstance(moment, int | float) else None


def _inside(folder: Address, place: str) -> Address:
    """The address of what a listing names. Raises UsageError for what is not below the folder."""
    found = parse(f"{folder.scheme}://{place if folder.scheme == 'file' else place.lstrip('/')}")
    if not found.place.startswith(folder.place.rstrip("/") + "/"):
        raise UsageError(f"{folder}: a listing of it names {found}, which is not in it")
    return found


def _check_writable(address: Address) -> None:
    if not address.is_writable:
        raise UsageError(
            f"{address}: nothing is written to {address.scheme}:// addresses",
            hint=f"there are {', '.join(WRITABLE[:-1])}",
        )


def _too_large(address: Address, most_bytes: int) -> UsageError:
    return UsageError(f"{address} holds more than {most_bytes:,} bytes, which is too much for what it should be")


@contextmanager
def _told(address: Address) -> Iterator[None]:
    """A library's errors as ours: what asking again may mend is the machine's, what it does not is the user's."""
    try:
        yield
    except CompressctlError:
        raise
    except Exception as error:
        raise _as_ours(address, error) from error


def _as_ours(address: Address, error: Exception) -> CompressctlError:
    kinds = {kind.__name__ for part in chain(error) for kind in type(part).__mro__}
    status = next((found for part in chain(error) if (found := _status(part)) is not None), None)
    if status == 404 or kinds & _NOT_THERE:
        return UsageError(
            f"{address} does not exist", hint="check the address, and that its bucket or repository is there"
        )
    if status in (401, 403) or kinds & _NOT_LET_IN:
        return UsageError(
            f"{address}: nobody lets us in: {in_short(error)}",
            hint="credentials come from the environment or from the files of the library, see docs/stores.md",
        )
    if kinds & _MISTAKEN or (status is not None and 400 <= status < 500 and status not in _LATER):
        return UsageError(f"{address} cannot be used: {in_short(error)}")
    refused = refusal(error)
    if refused is not None:
        refused.message = f"{address}: {refused.message}"
        return refused
    return MachineError(f"{address} cannot be reached: {in_short(error)}", hint="try again when the connection stands")


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of some library carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
    return found if isinstance(found, int) else None
