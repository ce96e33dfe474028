"""A first recipe for a model's folder, as transformers writes it: what its config tells, and examples of data where it cannot."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import open_regular
from compressctl.pipeline.starter_text import Starter, head, relative, remark, scalar, target
from compressctl.sources.huggingface.folder import CONFIG, find, read_object
from compressctl.sources.huggingface.network import saved_for
from compressctl.sources.params import HuggingFaceParams

_WINDOW = 256
_LONGEST_LINE = 1 << 20
_LABEL = re.compile(r"label|class|score|similar|target|rating|stars", re.IGNORECASE)
_TASKS = {
    "text-generation": "language-model",
    "text-classification": "classification",
    "image-classification": "classification",
    "sentence-similarity": "embedding",
}
"""Others are compared by their outputs on running text, which needs no labels."""


def for_folder(folder: Path, written_to: Path, data: Path | None) -> Starter:
    """A recipe for a folder with a config.json. data: samples that somebody has, None for a name to fill in.

    Raises UsageError for a folder that cannot be read, or was saved for no task, and for data of another kind.
    """
    base = written_to.parent
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"{folder} holds no {CONFIG}, so that it is no model's folder",
            hint="name a folder that save_pretrained wrote, or an .onnx file",
        )
    find(HuggingFaceParams(path=str(folder.resolve())), base)
    saved, config, where = saved_for(folder), read_object(folder / CONFIG), scalar(relative(folder, base))
    task = _TASKS.get(saved, "custom")
    section, wanted, suffixes = _DATA.get(saved, _DATA["text-generation"])
    named = wanted if data is None else _checked(data, wanted, suffixes)
    place = named if data is None else relative(Path(named), base)
    columns = _columns(data) if data is not None and "csv" in suffixes else []
    architecture = (config.get("architectures") or ["?"])[0]
    lines = [
        *head(folder.name, folder.resolve().name, task),
        f"model: {{source: huggingface, path: {where}}}   # {remark(str(architecture))}, for {saved}",
        "",
        *section(scalar(place), where, config, columns),
        "",
        *target({}),
        *_stages(saved, config, task),
    ]
    unsure: tuple[str, ...] = () if data is not None else (f"data: {wanted} is an example: name samples of your own",)
    if any("tokenizer: " in line for line in lines) and not (folder / "tokenizer.json").is_file():
        unsure += (f"data: {folder} has no tokenizer.json; name a folder that has the model's",)
    guessed = ("data: which columns are read is a guess",) if "csv" in suffixes else ()
    return Starter("\n".join(lines) + "\n", unsure + guessed)


def _columns(table: Path) -> list[str]:
    """Of its first line; none where that holds a number, and so is no header."""
    with open_regular(table) as file:
        line = file.readline(_LONGEST_LINE).decode("utf-8-sig", "replace")
    names = next(csv.reader([line.rstrip("\r\n")], delimiter=_delimiter(table.suffix)), [])
    return [] if any(re.fullmatch(r"-?\d+(\.\d*)?", name) for name in names) else names


def _label_first(columns: list[str]) -> list[str]:
    """The column that looks like one of labels, the last where none does, and the others in their order."""
    label = next((name for name in columns if _LABEL.search(name)), columns[-1])
    return [label, *(name for name in columns if name != label)]


def _delimiter(suffix: str) -> str:
    return "\t" if suffix.lower() == ".tsv" else ","


def _checked(data: Path, wanted: str, suffixes: tuple[str, ...]) -> str:
    if not data.exists():
        raise UsageError(f"--data {data} does not exist")
    is_fitting = data.is_dir() if not suffixes else data.suffix.lower().removeprefix(".") in suffixes
    if not is_fitting:
        kind = "a folder of one folder of images per class" if not suffixes else f"a file of {' or '.join(suffixes)}"
        raise UsageError(
            f"--data {data} is not what a recipe is written for here",
            hint=f"name {kind}, as in {wanted}; the recipe may name other sources then: `compressctl list`",
        )
    return str(data)


def _running_text(place: str, folder: str, config: dict[str, object], columns: list[str]) -> list[str]:
    known = config.get("max_position_embeddings", config.get("n_positions"))
    window = min(_WINDOW, known) if isinstance(known, int) and known > 0 else _WINDOW
    return [
        "data:",
        "  source: text",
        f"  files: [{place}]   # UTF-8 texts of the kind that the model reads; a tenth of them chooses and one reports",
        f"  tokenizer: {folder}",
        f"  window: {window}   # tokens that are scored together",
        "  calibration: 32",
        "  validation: 16",
    ]


def _texts(place: str, folder: str, config: dict[str, object], columns: list[str]) -> list[str]:
    label, *texts = _label_first(columns or ["text", "label"])
    text = next(iter(texts), "text")
    return [
        "data:",
        "  source: csv   # jsonl and hf_dataset read texts, too: `compressctl list`",
        f"  path: {place}",
        f"  label: {scalar(label)}",
        f"  tokenize: {{tokenizer: {folder}, texts: [{scalar(text)}]}}   # one column, or two of pairs",
    ]


def _pairs(place: str, folder: str, config: dict[str, object], columns: list[str]) -> list[str]:
    label, first, second = map(scalar, _label_first(columns)[:3]) if len(columns) > 2 else ("2", "0", "1")
    is_tabbed = place.rstrip('"').endswith(".tsv")
    return [
        "data:",
        "  source: sentence_pairs",
        f"  path: {place}",
        f"  columns: {{first: {first}, second: {second}, label: {label}}}   # by name, or by place where there is no header",
        *([] if is_tabbed else ['  delimiter: ","', "  quotes: true"]),
        f"  tokenizer: {folder}",
        "  padding: longest",
    ]


def _images(place: str, folder: str, config: dict[str, object], columns: list[str]) -> list[str]:
    return [
        "data:",
        "  source: image_folder   # one folder per class; images are prepared as preprocessor_config.json says",
        f"  path: {place}",
    ]


_Section = Callable[[str, str, dict[str, object], list[str]], list[str]]
_DATA: dict[str, tuple[_Section, str, tuple[str, ...]]] = {
    "text-generation": (_running_text, "texts.txt", ("txt", "md")),
    "text-classification": (_texts, "texts.csv", ("csv",)),
    "sentence-similarity": (_pairs, "pairs.csv", ("csv", "tsv")),
    "image-classification": (_images, "images", ()),
}
"""By task: what writes the section, an example, and endings of files, none for a folder."""


def _stages(saved: str, config: dict[str, object], task: str) -> list[str]:
    lines = [
        "stages:   # in order; `compressctl list` names all techniques, `compressctl explain NAME` tells about one"
    ]
    gate = {"classification": "accuracy_drop: 1.0", "embedding": "accuracy_drop: 1.0"}.get(task, "sqnr_db: 20")
    if saved == "text-generation":
        return [
            *lines,
            "  - use: quantize.weights   # 4 bits for weights alone",
            "    bits: 4",
            "    group_size: 32",
            "    symmetric: true",
            "    # method: gptq          # slower to make, nearer to the original",
            "",
            "export:",
            "  - {backend: onnxruntime, bundle: genai}      # pip install 'compressctl[genai]'",
            "  # - {backend: openvino, bundle: genai}       # pip install 'compressctl[openvino-genai]'",
        ]
    held = f"    gate: {{{gate}}}   # layers that cost more than that go back to float"
    if saved == "image-classification" and "num_attention_heads" not in config:
        return [*lines, "  - use: quantize.static    # 8 bits, ranges from the calibration samples", held]
    return [*lines, "  - use: quantize.dynamic   # 8 bits, activations as they come", held]
