"""Datasets of the library datasets: columns become arrays, tokens or images, and its own splits stay apart."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

datasets = pytest.importorskip("datasets")
pytest.importorskip("tokenizers")

from support.tiny_transformers import WORDS, write_tokenizer  # noqa: E402

from compressctl.core.data import Batch, Dataset  # noqa: E402
from compressctl.core.errors import CompressctlError, MissingDependencyError, UsageError  # noqa: E402
from compressctl.core.source import SplitSizes  # noqa: E402
from compressctl.sources import image_folder  # noqa: E402
from compressctl.sources.hf_dataset.place import fingerprint  # noqa: E402
from compressctl.sources.hf_dataset.samples import load  # noqa: E402
from compressctl.sources.params import HfDatasetParams, ImageFolderParams  # noqa: E402

datasets.disable_progress_bars()

CLASSES = datasets.ClassLabel(names=["neg", "pos"])
COMMIT = "d" * 40
ALL_TO_TEST = SplitSizes(test=1.0, validation=0, calibration=0)
IDS = {word: number for number, word in enumerate(WORDS, 4)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSCTL_CACHE", str(tmp_path / "cache"))


def table(count: int = 40, start: int = 0, **features: Any) -> "datasets.Dataset":
    numbers = range(start, start + count)
    columns = {
        "x": [[n / 2, 1] for n in numbers],
        "n": list(numbers),
        "text": [f"{WORDS[n % 5]} {WORDS[5]}" for n in numbers],
        "kind": [n % 2 for n in numbers],
    }
    types = {
        "x": datasets.List(datasets.Value("float32")),
        "n": datasets.Value("int32"),
        "text": datasets.Value("string"),
        "kind": CLASSES,
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(types | features))


def save(folder: Path, **splits: "datasets.Dataset") -> None:
    datasets.DatasetDict(splits).save_to_disk(str(folder / "d"))


def loaded(folder: Path, sizes: SplitSizes = ALL_TO_TEST, **fields: Any) -> Dataset:
    if not {"inputs", "tokenize", "image"} & fields.keys():
        fields["inputs"] = ["x"]
    return load(HfDatasetParams.model_validate({"path": "d", **fields}), sizes, folder, 0)


def in_order(dataset: Dataset, split: str = "test") -> Batch:
    (batch,) = dataset.split(split).batches(1000)
    order = np.argsort(batch.indices)
    inputs = {name: array[order] for name, array in batch.inputs.items()}
    return Batch(inputs, None if batch.labels is None else batch.labels[order], batch.indices[order])


def lengths(dataset: Dataset) -> dict[str, int]:
    return {name: len(dataset.split(name)) for name in ("train", "validation", "calibration", "test")}


def test_columns_of_numbers_become_arrays_and_classes_keep_their_names(tmp_path):
    save(tmp_path, train=table())
    dataset = loaded(tmp_path, inputs={"features": "x", "count": "n"}, label="kind")
    batch = in_order(dataset)
    assert dataset.classes == ("neg", "pos")
    assert np.array_equal(batch.inputs["features"], [[n / 2, 1] for n in range(40)])
    assert (batch.inputs["features"].dtype, batch.inputs["count"].dtype) == (np.float32, np.int64)
    assert np.array_equal(batch.labels, np.arange(40) % 2)


def test_arrays_of_a_declared_shape_keep_it(tmp_path):
    grid = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    features = datasets.Features({"x": datasets.Array2D((2, 3), "float32")})
    save(tmp_path, train=datasets.Dataset.from_dict({"x": list(grid)}, features=features))
    assert np.array_equal(in_order(loaded(tmp_path)).inputs["x"], grid)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv", "arrow"])
def test_a_folder_of_files_is_read_as_what_save_to_disk_wrote(tmp_path, suffix):
    own = table().select_columns(["n", "kind"])
    (tmp_path / "d").mkdir()
    for name, part in {"train": own, "test": table(10, 100).select_columns(["n", "kind"])}.items():
        path = str(tmp_path / "d" / f"{name}.{suffix}")
        if suffix == "arrow":
            part.save_to_disk(str(tmp_path / name))
            (made,) = (tmp_path / name).glob("*.arrow")
            shutil.copyfile(made, path)
        else:
            {"parquet": part.to_parquet, "jsonl": part.to_json, "csv": part.to_csv}[suffix](path)
    batch = in_order(loaded(tmp_path, SplitSizes(), inputs=["n"], label="kind"))
    assert np.array_equal(batch.inputs["n"], np.arange(100, 110))
    assert np.array_equal(batch.labels, np.arange(10) % 2)


def test_a_configuration_is_chosen_by_its_name(tmp_path):
    folder = tmp_path / "d"
    for name, start in (("small", 0), ("large", 500)):
        (folder / name).mkdir(parents=True)
        table(20, start).to_parquet(str(folder / name / "train.parquet"))
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("small", "large")]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    assert in_order(loaded(tmp_path, inputs=["n"], name="large")).inputs["n"].min() == 500
    with pytest.raises(UsageError, match=r"d cannot be read: .*small"):
        loaded(tmp_path, name="medium")


def test_a_folder_is_read_without_network_and_only_once(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    table().to_parquet(str(tmp_path / "d" / "train.parquet"))

    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loaded(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    assert len(in_order(loaded(tmp_path)).indices) == 40


def test_changed_content_is_noticed(tmp_path):
    (tmp_path / "d").mkdir()
    path, params = tmp_path / "d" / "train.jsonl", HfDatasetParams(path="d", inputs=("x",))
    path.write_text('{"x": 1}\n' * 20)
    before, stamp = fingerprint(params, tmp_path), path.stat().st_mtime_ns
    loaded(tmp_path)
    path.write_text('{"x": 2}\n' * 20)
    os.utime(path, ns=(stamp, stamp))
    assert fingerprint(params, tmp_path) != before
    assert set(in_order(loaded(tmp_path)).inputs["x"]) == {2}


def test_the_fingerprint_passes_over_what_the_library_leaves_in_a_folder(tmp_path):
    save(tmp_path, train=table())
    params = HfDatasetParams(path="d", inputs=("x",))
    before = fingerprint(params, tmp_path)
    (tmp_path / "d" / "train" / "cache-0123.arrow").write_bytes(b"of a map")
    assert fingerprint(params, tmp_path) == before


def test_own_splits_serve_as_they_are_called(tmp_path):
    save(tmp_path, train=table(), validation=table(8, 100), test=table(6, 200), unsupervised=table(5, 300))
    dataset = loaded(tmp_path, SplitSizes(calibration=10), inputs=["n"])
    assert lengths(dataset) == {"train": 30, "validation": 8, "calibration": 10, "test": 6}
    assert set(in_order(dataset, "validation").inputs["n"]) == set(range(100, 108))
    assert set(in_order(dataset).inputs["n"]) == set(range(200, 206))


def test_a_single_held_out_split_reports(tmp_path):
    save(tmp_path, train=table(), dev=table(8, 100))
    assert set(in_order(loaded(tmp_path, SplitSizes(), inputs=["n"])).inputs["n"]) == set(range(100, 108))


def test_every_split_can_be_named_and_limited(tmp_path):
    save(tmp_path, a=table(), b=table(20, 100), c=table(30, 200), d=table(25, 300))
    named = {"train": "a", "validation": "b", "calibration": "c", "test": "d"}
    dataset = loaded(tmp_path, SplitSizes(train=7, validation=6, calibration=5, test=4), inputs=["n"], splits=named)
    assert lengths(dataset) == {"train": 7, "validation": 6, "calibration": 5, "test": 4}
    for split, start in (("train", 0), ("validation", 100), ("calibration", 200), ("test", 300)):
        assert np.all(in_order(dataset, split).inputs["n"] // 100 * 100 == start)
    assert lengths(loaded(tmp_path, SplitSizes(), splits=named))["calibration"] == 30


def test_fewer_samples_leave_the_numbers_of_classes_as_they_are(tmp_path):
    own = datasets.Dataset.from_dict({"x": list(range(50)), "kind": [f"k{n % 25:02}" for n in range(50)]})
    save(tmp_path, train=own)
    dataset = loaded(tmp_path, SplitSizes(train=0, validation=0, calibration=0, test=3), label="kind")
    assert len(dataset.classes) == 25
    batch = in_order(dataset)
    assert np.array_equal(batch.labels, batch.inputs["x"] % 25)


def test_texts_become_tokens(tmp_path):
    write_tokenizer(tmp_path / "model")
    save(tmp_path, train=table(5))
    batch = in_order(loaded(tmp_path, tokenize={"tokenizer": "model", "texts": ["text"]}, label="kind"))
    assert batch.inputs["input_ids"][0].tolist() == [2, IDS[WORDS[0]], IDS[WORDS[5]], 3]
    assert batch.labels.tolist() == [0, 1, 0, 1, 0]


def test_pairs_of_texts_share_a_sample(tmp_path):
    write_tokenizer(tmp_path / "model")
    own = datasets.Dataset.from_dict({"a": [WORDS[0]], "b": [WORDS[1]], "score": [0.5]})
    save(tmp_path, train=own)
    batch = in_order(loaded(tmp_path, tokenize={"tokenizer": "model", "texts": ["a", "b"]}, label="score"))
    assert batch.inputs["input_ids"].tolist() == [[2, IDS[WORDS[0]], 3, IDS[WORDS[1]], 3]]
    assert batch.labels.tolist() == [0.5]


def test_each_word_may_have_a_class(tmp_path):
    write_tokenizer(tmp_path / "model")
    features = datasets.Features(
        {"words": datasets.List(datasets.Value("string")), "tags": datasets.List(datasets.ClassLabel(names=["O", "B"]))}
    )
    own = datasets.Dataset.from_dict({"words": [[WORDS[0], WORDS[1]]], "tags": [[1, 0]]}, features=features)
    save(tmp_path, train=own)
    dataset = loaded(tmp_path, tokenize={"tokenizer": "model", "texts": ["words"]}, label="tags")
    assert dataset.classes == ("O", "B")
    assert in_order(dataset).labels.tolist() == [[-100, 1, 0, -100]]


@pytest.mark.parametrize(
    ("names", "classes", "numbers", "labels"),
    [
        (["pos", "neg"], None, ["pos", "neg"], [1, 0, 1]),
        (["LABEL_0", "LABEL_1"], None, ["neg", "pos"], [0, 1, 0]),
        (["NEGATIVE", "POSITIVE"], None, ["neg", "pos"], [0, 1, 0]),
        (["a", "b"], ["pos", "neg"], ["pos", "neg"], [1, 0, 1]),
    ],
    ids=["the model's order", "a model without names", "a model's other names", "the recipe's order"],
)
def test_classes_are_matched_by_name_where_the_model_or_the_recipe_has_the_names(
    tmp_path, names, classes, numbers, labels
):
    write_tokenizer(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    save(tmp_path, train=table(3))
    named = {} if classes is None else {"classes": classes}
    dataset = loaded(tmp_path, tokenize={"tokenizer": "model", "texts": ["text"]}, label="kind", **named)
    assert list(dataset.classes) == numbers
    assert in_order(dataset).labels.tolist() == labels


def test_images_are_prepared_as_those_of_a_folder(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (6, 9, 13, 3), dtype=np.uint8)
    features = datasets.Features({"picture": datasets.Image(), "kind": CLASSES})
    rows = {"picture": [Image.fromarray(one) for one in drawn], "kind": [n % 2 for n in range(6)]}
    save(tmp_path, train=datasets.Dataset.from_dict(rows, features=features))
    for number, one in enumerate(drawn):
        path = tmp_path / "images" / CLASSES.names[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(path)
    steps = {"resize": 8, "center_crop": 6, "interpolation": "bicubic", "color": "bgr", "mean": [0.5], "std": [0.25]}
    batch = in_order(loaded(tmp_path, image="picture", label="kind", **steps))
    folder = ImageFolderParams.model_validate({"path": "images", **steps})
    other = in_order(image_folder.load(folder, ALL_TO_TEST, tmp_path, 0))
    assert np.array_equal(batch.inputs["input"][[0, 2, 4, 1, 3, 5]], other.inputs["input"])
    assert batch.labels[[0, 2, 4, 1, 3, 5]].tolist() == other.labels.tolist()


def test_bytes_of_image_files_need_no_declaration(tmp_path):
    path = tmp_path / "one.png"
    Image.new("RGB", (2, 2), (255, 0, 0)).save(path)
    save(tmp_path, train=datasets.Dataset.from_dict({"png": [path.read_bytes()] * 3}))
    pixels = in_order(loaded(tmp_path, image="png")).inputs["input"]
    assert np.array_equal(pixels, np.broadcast_to(np.array([1, 0, 0])[:, None, None], (3, 3, 2, 2)))


def test_a_folder_of_images_keeps_its_classes(tmp_path):
    for number in range(8):
        path = tmp_path / "d" / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), number).save(path)
    dataset = loaded(tmp_path, image="image", label="label")
    assert tuple(dataset.classes) == ("a", "b")
    batch = in_order(dataset)
    assert np.array_equal(np.rint(batch.inputs["input"][:, 0, 0, 0] * 255) % 2, batch.labels)


def test_a_label_may_be_text_to_recognise(tmp_path):
    save(tmp_path, train=table(3))
    assert in_order(loaded(tmp_path, label="text", text=True)).labels.tolist() == table(3)["text"]


def test_a_dataset_that_was_saved_for_another_library_is_read_alike(tmp_path):
    save(tmp_path, train=table(3).with_format("numpy"))
    assert np.array_equal(in_order(loaded(tmp_path, label="kind")).labels, [0, 1, 0])


TEXTS = {"tokenizer": "model", "texts": ["text"]}
WRONG = {
    "no column": ({"inputs": ["y"]}, r"d, split train: there is no column 'y'"),
    "a text among numbers": ({"inputs": ["text"]}, r"the column 'text' holds text, and is taken for numbers"),
    "numbers among texts": ({"tokenize": {**TEXTS, "texts": ["x"]}}, r"holds numbers, and is taken for text"),
    "no images": ({"image": "x"}, r"holds numbers, and is taken for images"),
    "a label among the inputs": ({"inputs": ["n"], "label": "n"}, r"would predict itself"),
    "a name that is none of the classes": ({"label": "kind", "classes": ["neg"]}, r"d: train\[\d+\]: .*'pos'"),
    "no such split": ({"splits": {"test": "dev"}}, r"d has no split 'dev', which data.splits.test names"),
    "a name of a saved dataset": ({"name": "sst2"}, r"one configuration, data.name asks for sst2"),
    "a revision of a folder": ({"revision": COMMIT}, r"data.revision names a commit on the Hub"),
    "an id without its commit": ({"path": "me/reviews"}, r"no folder me/reviews, and on the Hub a dataset changes"),
    "no folder": ({"path": "elsewhere"}, r"the dataset's folder .*elsewhere does not exist"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_told_with_its_place(tmp_path, fields, message):
    write_tokenizer(tmp_path / "model")
    save(tmp_path, train=table())
    with pytest.raises(UsageError, match=message):
        loaded(tmp_path, **fields)


ROWS = {
    "a number that is missing": ({"x": [1, None]}, r"d: train\[1\]: 'x' is no number"),
    "a class that is missing": ({"x": [1, 2], "kind": [0, None]}, r"d: train\[1\]: 'kind' is no number"),
    "hidden labels": ({"x": [1, 2], "kind": [-1, -1]}, r"d: train\[0\]: its label is -1, which stands for none"),
}


@pytest.mark.parametrize(("columns", "message"), ROWS.values(), ids=ROWS)
def test_a_value_that_does_not_fit_is_told_with_its_row(tmp_path, columns, message):
    features = datasets.Features({"x": datasets.Value("int64"), **({"kind": CLASSES} if "kind" in columns else {})})
    save(tmp_path, train=datasets.Dataset.from_dict(columns, features=features))
    with pytest.raises(UsageError, match=message):
        loaded(tmp_path, **({"label": "kind"} if "kind" in columns else {}))


def test_splits_whose_names_say_nothing_have_to_be_named(tmp_path):
    save(tmp_path, train=table(), validation_matched=table(), validation_mismatched=table())
    with pytest.raises(UsageError, match=r"which of its splits serve for what") as refused:
        loaded(tmp_path)
    assert "validation_mismatched" in str(refused.value)


def test_files_that_two_splits_share_are_refused(tmp_path):
    (tmp_path / "d").mkdir()
    table().to_parquet(str(tmp_path / "d" / "all.parquet"))
    files = [{"split": split, "path": "all.parquet"} for split in ("train", "test")]
    configs = [{"config_name": "default", "data_files": files}]
    (tmp_path / "d" / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    with pytest.raises(UsageError, match=r"all\.parquet is in two of the data's own splits"):
        loaded(tmp_path, SplitSizes())


def test_data_outside_of_the_folder_are_refused(tmp_path):
    (tmp_path / "d").mkdir()
    table().to_parquet(str(tmp_path / "other.parquet"))
    configs = [{"config_name": "default", "data_files": str(tmp_path / "other.parquet")}]
    (tmp_path / "d" / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    with pytest.raises(UsageError, match=r"d names data outside of its folder: .*other\.parquet"):
        loaded(tmp_path)


DAMAGED = {
    "nothing": ({}, "holds no files"),
    "no data": ({"notes.xyz": b"a"}, "d cannot be read"),
    "no Parquet": ({"train.parquet": b"none"}, "d cannot be read"),
    "no JSON": ({"train.jsonl": b'{"x": 1}\n[['}, "d cannot be read"),
    "a script": ({"d.py": b"raise SystemExit('executed')", "train.csv": b"x\n1\n"}, "scripts are no longer supported"),
    "a format that is not read": ({"train.h5": b"none"}, r"files that are not read here \(hdf5\)"),
    "an empty table": ({"train.csv": b"x,y\n"}, "d"),
    "a saved folder without tables": ({"state.json": b"{}"}, "d cannot be"),
    "a saved folder of nonsense": ({"dataset_dict.json": b"[1"}, "d cannot be"),
}


@pytest.mark.parametrize(("files", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_folder_that_is_none_is_one_message(tmp_path, files, message):
    (tmp_path / "d").mkdir()
    for name, content in files.items():
        (tmp_path / "d" / name).write_bytes(content)
    with pytest.raises(CompressctlError, match=message) as refused:
        loaded(tmp_path)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give one of inputs"),
        ({"inputs": ["x"], "image": "y"}, "give one of inputs"),
        ({"inputs": ["x"], "resize": 8}, "resize: these prepare images"),
        ({"inputs": ["x"], "revision": "main"}, "revision"),
        ({"inputs": ["x"], "splits": {}}, "name the dataset's splits"),
        ({"inputs": ["x"], "splits": {"calibration": "test", "test": "test"}}, "serves for both calibration and test"),
        ({"inputs": ["x"], "text": True}, "text: true is for a label"),
        ({"inputs": ["x"], "classes": ["a"]}, "give label too"),
    ],
)
def test_a_recipe_that_cannot_mean_anything_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        HfDatasetParams.model_validate({"path": "d", **fields})


def test_without_the_library_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    save(tmp_path, train=table())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs datasets") as refused:
        loaded(tmp_path)
    assert "compressctl[datasets]" in refused.value.install


def test_validate_does_not_import_the_library(tmp_path):
    recipe = "recipe: compressctl/v1\nmodel: {source: onnx, path: m.onnx}\ndata: {source: hf_dataset, path: d, inputs: [x]}\n"
    (tmp_path / "r.yaml").write_text(recipe)
    code = (
        "import sys; from compressctl.recipe.loader import load; from pathlib import Path; load(Path('r.yaml'));"
        "print({'datasets', 'pyarrow', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr
