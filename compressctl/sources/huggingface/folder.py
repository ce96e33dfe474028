"""The folder that `save_pretrained` wrote, found on disk or brought from the Hub, and the files in it that decide a network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.regular_files import read_regular
from compressctl.sources.fingerprint import contents_fingerprint, existing, existing_folder, hash_file
from compressctl.sources.params import HuggingFaceParams

VERSION = 1

CONFIG, MODULES = "config.json", "modules.json"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BROUGHT = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""No pickles and no code."""
_MOST_JSON = 64 << 20


def find(params: HuggingFaceParams, base: Path) -> Path:
    """The folder with a config.json. base: that relative paths start from.

    Raises UsageError where there is none, and where an id of the Hub comes without its revision.
    """
    folder = base / params.path
    if is_on_the_hub(params.path, base):
        return _brought(params)
    try:
        existing_folder(folder, what="the model's folder")
    except UsageError as error:
        if not folder.exists():
            error.hint = "paths start from the recipe's folder; an id of the Hub is org/name, and needs model.revision"
        raise
    if params.revision is not None:
        raise UsageError(
            f"{folder} is a folder, and model.revision names a commit on the Hub", hint="leave model.revision out"
        )
    existing(folder / CONFIG, what="the model's config")
    for path in deciding(folder):
        existing(path, what="the model's file")
    return folder


def fingerprint(params: HuggingFaceParams, base: Path) -> str:
    """Covers the config, the weights and what says how tokens become one vector. Brings nothing: a commit on the Hub never changes."""
    other = {"weights": params.weights, "structure": params.structure}
    contents = {name: hash_file(existing(base / path, what=f"the {name} file")) for name, path in other.items() if path}
    if is_on_the_hub(params.path, base):
        return contents_fingerprint("huggingface", VERSION, params, contents | {"commit": _pinned(params)})
    folder = find(params, base)
    files = {f"folder/{path.relative_to(folder)}": path for path in deciding(folder)}
    contents |= {name: hash_file(path) for name, path in files.items()}
    return contents_fingerprint("huggingface", VERSION, params, contents, decides_nothing=("path",))


def deciding(folder: Path) -> list[Path]:
    """Files of the network, sorted: not its tokenizer, which belongs to the data, and nothing of other formats."""
    found = {folder / CONFIG, *folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")}
    found |= {folder / MODULES, *folder.glob("[0-9]*_*/config.json"), *folder.glob("[0-9]*_*/*.safetensors")}
    found |= {folder / name for name in ("tokenizer_config.json", "preprocessor_config.json")}  # they name the inputs
    return sorted(path for path in found if path.exists())


def read_json(path: Path) -> Any:
    """Raises UsageError for what is no JSON."""
    try:
        return json.loads(read_regular(path, _MOST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", hint="the file is damaged or half downloaded") from error


def read_object(path: Path) -> dict[str, Any]:
    """The same of a file that holds an object; an empty one where there is no such file."""
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no object of names and values")
    return found


def is_on_the_hub(path: str, base: Path) -> bool:
    """A folder of that name comes first, as transformers has it."""
    return _ID.fullmatch(path) is not None and not (base / path).exists()


def pinned(path: str, revision: str | None, what: str, key: str) -> str:
    """The commit of an id on the Hub. what, key: what lies there, and where a recipe names its commit. Raises UsageError where none is given."""
    if revision is None:
        raise UsageError(
            f"there is no folder {path}, and on the Hub a {what} changes: the commit is missing",
            hint=f"give {key}, all 40 digits of the commit (on the {what}'s page: Files, History), or the path of a folder",
        )
    return revision


def _pinned(params: HuggingFaceParams) -> str:
    return pinned(params.path, params.revision, "model", "model.revision")


def _brought(params: HuggingFaceParams) -> Path:
    """From the Hub's own cache where it lies there, else downloaded."""
    revision = _pinned(params)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f"the model {params.path}", "huggingface_hub", "pip install 'compressctl[transformers]'"
        ) from error
    try:
        return Path(snapshot_download(params.path, revision=revision, allow_patterns=list(_BROUGHT)))
    except Exception as error:  # errors of its own, of its HTTP library and of the system
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"{params.path} at {revision[:12]} cannot be brought from the Hub: {said[0]}",
            hint="check the id and the commit; HF_TOKEN opens private models, HF_ENDPOINT names a mirror, a downloaded folder needs neither",
        ) from error
