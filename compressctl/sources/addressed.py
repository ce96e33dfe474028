"""The files of a recipe that lie at addresses, brought here; those of this machine are checked where a checksum is given."""

from __future__ import annotations

from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.sources.fingerprint import existing, hash_file
from compressctl.sources.params import OnnxParams
from compressctl.store.address import is_address, parse
from compressctl.store.downloads import check_sha256, fetch, fetch_together, is_kept, known

_MOST_FILES = 1000
"""Beside a model at an address."""


def local_file(given: str, sha256: str | None, base: Path, what: str) -> Path:
    """base: the folder that relative paths start from. Raises UsageError, and what bringing it raises."""
    if is_address(given):
        return fetch(parse(given), sha256).path
    path = existing(base / given, what=what)
    if sha256 is not None:
        check_sha256(f"{what} {path}", hash_file(path), sha256)
    return path


def local_model(params: OnnxParams, base: Path) -> Path:
    """The ONNX file, with the files of its external data in its folder."""
    if is_address(params.path):
        params = pinned(params)
        address = parse(params.path)
        files = {address.name: (address, params.sha256)}
        files |= {name: (address.beside(name), digest) for name, digest in params.external.items()}
        if len(files) > 1:
            _check_all_are_pinned(params, fetch(address, params.sha256).path)
            return fetch_together(files)[0] / address.name
        path = fetch(address, params.sha256).path
        _check_all_are_pinned(params, path)
        return path
    path = local_file(params.path, params.sha256, base, "the ONNX file")
    for name, digest in params.external.items():
        check_sha256(f"{name} beside {path}", hash_file(existing(path.parent / name, what="the external data")), digest)
    return path


def pinned(params: OnnxParams) -> OnnxParams:
    """With checksums of all that lies at its address now, which is brought where nobody has said them."""
    if not is_address(params.path):
        return params
    address = parse(params.path)
    if params.sha256 is not None:
        return params
    main = fetch(address)
    external = {name: fetch(address.beside(name)).sha256 for name in _external_names(main.path)}
    return params.model_copy(update={"sha256": main.sha256, "external": external})


def pinned_if_known(params: OnnxParams) -> OnnxParams | None:
    """The same without bringing anything; None where it was not brought before, or has changed since."""
    if not is_address(params.path) or params.sha256 is not None:
        return pinned(params)
    address = parse(params.path)
    digest = known(address)
    if digest is None or not is_kept(digest):
        return None
    external = {name: known(address.beside(name)) for name in _external_names(fetch(address, digest).path)}
    digests = {name: found for name, found in external.items() if found is not None}
    return params.model_copy(update={"sha256": digest, "external": digests}) if len(digests) == len(external) else None


def _check_all_are_pinned(params: OnnxParams, path: Path) -> None:
    """What is not said cannot be part of what decides a run: plans are made without bringing anything."""
    missing = sorted({*_external_names(path)} - params.external.keys())
    if missing:
        raise UsageError(
            f"{params.path} keeps weights in {', '.join(missing[:5])} beside it, and only its own checksum is given",
            hint="give those too: `external: {name: sha256}`",
        )


def _external_names(path: Path) -> list[str]:
    from compressctl.graph.model_file import external_names
    from compressctl.graph.model_file import parse as parse_model

    try:
        names = external_names(parse_model(path))
    except UsageError:
        raise
    except Exception:  # no ONNX file: whoever reads it says so in its own words
        return []
    if len(names) > _MOST_FILES:
        raise UsageError(f"{path} keeps weights in {len(names):,} files beside it, more than {_MOST_FILES:,}")
    return names
