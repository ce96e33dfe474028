"""Addresses of files that lie elsewhere: `s3://bucket/key`, `gs://`, `hf://org/repo/file`, `https://`, `file:///path`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from compressctl.core.errors import UsageError
from compressctl.core.legible import legible
from compressctl.core.secrets import without_secrets

SCHEMES = ("s3", "gs", "hf", "https", "file", "memory")
WRITABLE = ("s3", "gs", "file", "memory")

_SCHEME = re.compile(r"([A-Za-z0-9+.:-]+)://")
_LONGEST = 4096
_SIGNING = re.compile(r"sig|token|secret|password|passwd|credential|key|auth", re.IGNORECASE)
"""In the name of a query's value: it lets in whoever has the address."""


class SecretInAddressError(UsageError):
    """An address lets in whoever reads it. The message does not repeat it."""


@dataclass(frozen=True)
class Address:
    """text: all of it. scheme, place: what stands before and after `://`, without a query."""

    text: str
    scheme: str
    place: str

    @property
    def name(self) -> str:
        return self.place.rstrip("/").rpartition("/")[2]

    @property
    def is_writable(self) -> bool:
        return self.scheme in WRITABLE

    def beside(self, name: str) -> Address:
        """The file of that name, or relative path downwards, in the same folder."""
        return parse(f"{self.scheme}://{self.place.rpartition('/')[0]}/{name}")

    def below(self, name: str) -> Address:
        """The file of that name, or relative path downwards, in this folder."""
        return parse(f"{self.scheme}://{self.place.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.text


def is_address(text: str) -> bool:
    """Whether it is no local path. `parse` says whether it can be used."""
    return _SCHEME.match(text) is not None


def parse(text: str) -> Address:
    """Raises UsageError for what is no address, or one that is not followed: credentials in it, steps upwards, plain http."""
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found is not None else ""
    if scheme == "http":
        raise UsageError(f"{text}: whoever is on the way can change what plain http brings", hint="use https")
    if scheme not in SCHEMES:
        raise UsageError(f"{text} is no address that can be read", hint=f"there are {', '.join(SCHEMES[:-1])}")
    if len(text) > _LONGEST or legible(text) != text or "\n" in text:
        raise UsageError(f"{text[:200]!r} is no address: it is too long, or holds control characters")
    rest = text[len(scheme) + 3 :]
    place = rest.partition("?")[0] if scheme == "https" else rest
    _check_secrets(scheme, text)
    steps = place.lstrip("/").split("/") if scheme == "file" else place.split("/")
    if not all(steps[:-1]) or not steps[0]:
        raise UsageError(f"{text} is no address: a step of it is empty")
    if any(unquote(step) in (".", "..") or "\\" in step for step in steps):
        raise UsageError(f"{text}: steps upwards are never followed", hint="write where it leads to")
    if scheme == "file" and not place.startswith("/"):
        raise UsageError(f"{text} names no file of this machine", hint="write file:///and/the/path, or the path alone")
    return Address(text, scheme, place)


def _check_secrets(scheme: str, text: str) -> None:
    """What lets somebody in stands in no file of ours: in an address only where all of it came from `${env:...}`."""
    told = without_secrets(text)
    if not is_address(told) or scheme in ("file", "memory"):
        return
    host, _, query = told.partition("://")[2].partition("?")
    if scheme != "hf" and "@" in host.partition("/")[0]:
        raise SecretInAddressError(
            f"{scheme}://...: a name or password stands in the address",
            hint="credentials come from the environment or from the files of the library, see docs/stores.md",
        )
    for name, value in parse_qsl(query, keep_blank_values=True):
        if _SIGNING.search(name) and not value.startswith("${env:"):
            raise SecretInAddressError(
                f"{scheme}://{host}?...: {name} in an address lets in whoever reads it",
                hint="put it into a variable of the environment, and write ${env:NAME} in its place",
            )
