"""From a manifest to its models: files of this machine or at addresses, and models of other sources."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compressctl.core.errors import UsageError
from compressctl.core.patterns import matches
from compressctl.core.secrets import without_secrets
from compressctl.recipe.variables import escaped
from compressctl.sources.addressed import pinned, pinned_if_known
from compressctl.sources.params import OnnxParams
from compressctl.store.address import is_address, parse
from compressctl.store.downloads import fetch
from compressctl.store.find import find, fixed_place
from compressctl.zoo.model_files import MOST_FILES, files_for, fixed_part
from compressctl.zoo.schema import Manifest, ModelEntry


@dataclass(frozen=True)
class Model:
    """path: the ONNX file on this machine. at: the one at an address. Neither: of another source, nothing is known before it is loaded."""

    id: str
    entry: ModelEntry
    path: Path | None = None
    at: OnnxParams | None = None

    def pinned(self, *, fetches: bool) -> Model | None:
        """With checksums of what lies at its address; None where that is not known, and fetches is not set. Raises what fetching raises."""
        if self.at is None:
            return self
        found = pinned(self.at) if fetches else pinned_if_known(self.at)
        return replace(self, at=found) if found is not None else None

    def fetch(self) -> Path:
        """The file at its address, without its external data."""
        assert self.at is not None
        return fetch(parse(self.at.path), self.at.sha256).path

    def section(self, base: Path) -> dict[str, Any]:
        """As a recipe's `model`."""
        checksums = (self.at or self.entry).model_dump(include={"sha256", "external"}, exclude_defaults=True)
        if self.entry.model is not None:
            return {**{key: absolute(value, base) for key, value in self.entry.model.items()}, **checksums}
        place = self.at.path if self.at is not None else str(self.path)
        return {"source": "onnx", "path": escaped(place), **checksums}


def models_of(manifest: Manifest, base: Path) -> list[Model]:
    """In the manifest's order, and by path within a pattern. base: the manifest's folder.

    Raises UsageError for ids that are taken, and patterns that find nothing. Patterns of `include` and `exclude` that fit no id are warnings.
    """
    found: list[Model] = []
    taken: dict[str, int] = {}
    unused = {(key, pattern) for key in ("include", "exclude") for pattern in getattr(manifest, key)}
    for position, entry in enumerate(manifest.models):
        for model in _models(entry, position, base, taken, manifest.store):
            if len(found) >= MOST_FILES:
                raise UsageError(f"the manifest names more than {MOST_FILES:,} models", hint="divide it")
            unused -= {one for one in unused if matches(one[1], (model.id,))}
            if manifest.is_wanted(model.id):
                found.append(model)
    for key, pattern in sorted(unused):
        warnings.warn(f"{key}: no model's id fits {pattern}", stacklevel=2)
    if not found:
        raise UsageError(
            "`include` and `exclude` leave no model", hint="they are patterns over ids, as `zoo plan` shows them"
        )
    return found


def _models(entry: ModelEntry, position: int, base: Path, taken: dict[str, int], own: str | None) -> Iterator[Model]:
    """taken: ids of other models in small letters, since there are disks that know no others; see _unused. own: the address of the
    zoo's results, which are no models."""
    at = f"models[{position}]"
    if entry.glob is not None and is_address(entry.glob):
        address = parse(entry.glob)
        start_place = fixed_place(address).place
        found = [one for one in find(address, MOST_FILES) if not _is_below(own, one.address.text)]
        if not found:
            raise UsageError(f"{at}: no file fits {entry.glob}", hint="patterns name a bucket, folders and an ending")
        for one in found:
            name = one.address.place.removeprefix(start_place)
            model_id = _unused(_legal(str(Path(name).with_suffix(""))), taken)
            yield Model(model_id, entry, at=OnnxParams(path=one.address.text))
        return
    if entry.glob is not None:
        files = files_for(base, entry.glob)
        if not files:
            raise UsageError(
                f"{at}: no file fits {entry.glob or 'a pattern of nothing'}",
                hint="patterns start from the manifest's folder, and `**` enters no folder that a zoo or a run wrote",
            )
        start = fixed_part(base, entry.glob)
        for file in files:
            yield Model(_unused(_legal(str(file.relative_to(start).with_suffix(""))), taken), entry, file.absolute())
        return
    params = _at_address(entry)
    path = (base / entry.path).absolute() if entry.path is not None and params is None else None
    name = entry.id or _legal(_name_of(entry))
    if name.lower() in taken:
        raise UsageError(f"{at}: the id {name} is taken", hint="give it an `id` of its own, in whatever letters")
    yield Model(_unused(name, taken), entry, path, params)


def _is_below(folder: str | None, address: str) -> bool:
    return folder is not None and address.startswith(f"{folder.rstrip('/')}/")


def _legal(text: str) -> str:
    """As an id, which becomes a file's name, and so tells nobody what the environment gave.

    Of names in other scripts, which all would be one, a digest stays: an id must not depend on which other files there are.
    """
    told = without_secrets(text)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", told).strip("-.")[:80]
    if not any(letter.isalnum() and not letter.isascii() for letter in told):
        return plain or "model"
    normal = unicodedata.normalize("NFC", told).encode(errors="surrogatepass")
    return f"{plain or 'model'}-{hashlib.sha256(normal).hexdigest()[:8]}"


def _unused(name: str, taken: dict[str, int]) -> str:
    """The name, or the first after it that is free; taken: names, each with the number that was tried last."""
    number, chosen = taken.get(name.lower(), 1), name
    while chosen.lower() in taken:
        number += 1
        chosen = f"{name}-{number}"
    taken[name.lower()], taken[chosen.lower()] = number, 1
    return chosen


def _name_of(entry: ModelEntry) -> str:
    if entry.path is not None:
        return Path(parse(entry.path).name if is_address(entry.path) else entry.path).stem
    model = entry.model or {}
    return str(next((model[key] for key in ("name", "path", "factory") if key in model), model.get("source", "model")))


def _at_address(entry: ModelEntry) -> OnnxParams | None:
    """As the params of a recipe's model. What a recipe would refuse is the recipe's to refuse."""
    said: Mapping[str, Any] = entry.model or {}
    if entry.path is not None:
        said = {"source": "onnx", "path": entry.path, "sha256": entry.sha256, "external": entry.external}
    if said.get("source") != "onnx" or not is_address(str(said.get("path"))):
        return None
    parse(str(said["path"]))
    try:
        return OnnxParams.model_validate({key: value for key, value in said.items() if key != "source"})
    except ValidationError:
        return None


def absolute(value: Any, base: Path) -> Any:
    """A path that begins with `./` is one of the manifest's; others belong to the recipe."""
    if isinstance(value, str) and value.startswith(("./", "../")):
        return str((base / value).absolute())
    if isinstance(value, dict):
        return {key: absolute(inner, base) for key, inner in value.items()}
    return [absolute(inner, base) for inner in value] if isinstance(value, list) else value
