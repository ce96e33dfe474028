"""A dataset as the library datasets opens it: memory-mapped tables by split."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import CompressctlError, MachineError, MissingDependencyError, UsageError
from compressctl.core.failures import refused_in
from compressctl.core.private_folders import make_private
from compressctl.core.process_state import process_state_kept
from compressctl.core.quiet import quiet
from compressctl.sources.hf_dataset.place import commit_of, contents_of, files_of, folder_of
from compressctl.sources.params import HfDatasetParams
from compressctl.sources.splits import check_apart
from compressctl.store.cache_place import DOWNLOADS_LIMIT_BYTES, IN_USE_SECONDS, downloads

if TYPE_CHECKING:
    from datasets import Dataset

INSTALL = "pip install 'compressctl[datasets]'"

_FORMATS = ("arrow", "csv", "imagefolder", "json", "parquet", "text")
"""Of the library's readers those that read tables, texts and images: others run what files hold (pickles), or need libraries of their own."""
_SAVED = ("dataset_dict.json", "state.json")
"""One of them stands in a folder that `save_to_disk` wrote: of several splits, or of one."""
_ONLY_SPLIT = "train"
_LONGEST = 400
"""Characters of a message of the library, whose first line often ends before it says anything."""
_TABLES = "tables"


def opened(params: HfDatasetParams, base: Path) -> Mapping[str, Dataset]:
    """By the split's name. What `save_to_disk` did not write is read once and kept as it would write it, by its content, in the cache.

    Raises MissingDependencyError without the library, UsageError for what it cannot read.
    """
    folder = folder_of(params, base)
    library = _imported(params.path)
    if folder is not None and _is_saved(folder):
        if params.name is not None:
            raise UsageError(
                f"{folder} was written by save_to_disk and has one configuration, data.name asks for {params.name}",
                hint="leave data.name out",
            )
        found = _from_disk(library, folder, params.path)
        allowed = {path.resolve() for path in files_of(folder)}
        files = {name: [Path(file["filename"]) for file in split.cache_files] for name, split in found.items()}
        _check_inside((path for paths in files.values() for path in paths), allowed, params.path)
        check_apart(*files.values())
        return found
    return _from_disk(library, _kept(library, params, base, folder) / _TABLES, params.path)


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED)


def _imported(path: str) -> Any:
    found = importlib.util.find_spec("datasets")
    if found is None or found.origin is None:  # a folder of that name beside the recipe is no package
        raise MissingDependencyError(f"the dataset {path}", "datasets", INSTALL)
    try:
        with process_state_kept(), quiet(prints=True):
            import datasets

            datasets.disable_progress_bars()
            return datasets
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"the dataset {path}", error.name or "datasets", INSTALL) from error


def _from_disk(library: Any, folder: Path, path: str) -> Mapping[str, Dataset]:
    """Rows as Python's own values, whatever form the dataset was saved for."""
    with _told(f"{path} cannot be opened", "it was saved by a newer version of the library, or is damaged"):
        found = library.load_from_disk(str(folder.resolve()))
        if not isinstance(found, library.DatasetDict):
            found = {str(found.split or _ONLY_SPLIT): found}
        return {name: split.with_format(None) for name, split in found.items()}


def _kept(library: Any, params: HfDatasetParams, base: Path, folder: Path | None) -> Path:
    """The cache's folder of the dataset, in which it is written where it is not there yet."""
    words = [
        library.__version__,
        params.name,
        params.path if folder is None else "",
        *sorted(contents_of(params, base).items()),
    ]
    key = hashlib.sha256(json.dumps(["hf_dataset", *words]).encode()).hexdigest()
    kept = downloads()
    entry = kept.read(key)
    if entry is None:
        make_private(kept.root)
        kept.trim(DOWNLOADS_LIMIT_BYTES, IN_USE_SECONDS)
        kept.write(key, lambda room: _write(library, params, folder, room))
        entry = kept.read(key)
    if entry is None:
        raise MachineError(f"{params.path} was read, and is gone from {kept.root}", hint="try again")
    return entry


def _write(library: Any, params: HfDatasetParams, folder: Path | None, room: Path) -> None:
    working = room / "working"
    # The prefix keeps a folder of an id's name in the working folder from being taken for it.
    source = f"hf://datasets/{params.path}" if folder is None else str(folder.resolve())
    revision = commit_of(params) if folder is None else None
    with _told(f"{params.path} cannot be read", _HINTS[folder is None]):
        builder = library.load_dataset_builder(source, params.name, revision=revision, cache_dir=str(working))
        _check_format(builder, params.path)
        if folder is not None:
            files = {name: [Path(file) for file in paths] for name, paths in (builder.config.data_files or {}).items()}
            _check_inside(
                (path for paths in files.values() for path in paths),
                {path.resolve() for path in files_of(folder)},
                params.path,
            )
            check_apart(*files.values())
        builder.download_and_prepare()
        builder.as_dataset().save_to_disk(str(room / _TABLES))
    shutil.rmtree(working, ignore_errors=True)


_HINTS = {
    True: "check the id, the commit and data.name; HF_TOKEN opens private datasets, HF_ENDPOINT names a mirror, a downloaded folder needs neither",
    False: "the folder holds files of one kind (Parquet, Arrow, JSON lines, CSV, text or images), split by their names or folders: train, test",
}


def _check_format(builder: Any, path: str) -> None:
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in _FORMATS:
        raise UsageError(
            f"{path} is of files that are not read here ({kind})",
            hint=f"readable are {', '.join(_FORMATS)}; load it where you trust it and call save_to_disk, which writes such files",
        )


def _check_inside(paths: Iterable[Path], allowed: set[Path], path: str) -> None:
    """What lies elsewhere may change without anybody's noticing."""
    outside = next((file for file in paths if file.resolve() not in allowed), None)
    if outside is not None:
        raise UsageError(
            f"{path} names data outside of its folder: {outside}",
            hint="put the files into the folder, or name the folder that holds all of them",
        )


@contextmanager
def _told(what: str, hint: str) -> Iterator[None]:
    """Errors of the library, of the readers below it and of the system as ours."""
    try:
        with process_state_kept(), quiet(prints=True):
            yield
    except CompressctlError:
        raise
    except Exception as error:
        said = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        words = " ".join(str(said).split())[:_LONGEST] or type(said).__name__
        raise refused_in(what, error) or UsageError(f"{what}: {words}", hint=hint) from error
