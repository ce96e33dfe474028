import json
import subprocess
import sys
import wave
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.model import Form
from compressctl.core.source import SplitSizes, datasets, model_sources
from compressctl.recipe.schema import DataSection, ModelSection
from compressctl.sources.load import dataset_fingerprint, load_dataset, load_model, model_fingerprint
from compressctl.sources.params import (
    BuiltinParams,
    CocoDataParams,
    CsvParams,
    DigitsParams,
    HfDatasetParams,
    ImageFolderParams,
    JsonlParams,
    MaskFolderParams,
    NpzParams,
    OnnxParams,
    OnnxTestDataParams,
    PythonDatasetParams,
    PythonModelParams,
    RandomParams,
    RequestsParams,
    SentencePairsParams,
    TextImagesParams,
    TextParams,
    WavFolderParams,
    YoloDataParams,
)

RESNET = ModelSection("builtin", BuiltinParams(name="digits-resnet"))
DIGITS = DataSection("digits", DigitsParams(), SplitSizes())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("COMPRESSCTL_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "data.npz", inputs=np.random.default_rng(0).normal(size=(40, 3)), labels=np.arange(40) % 2)
    (tmp_path / "data.csv").write_text("x,kind\n" + "\n".join(f"{n},{n % 2}" for n in range(40)))
    (tmp_path / "data.py").write_text(
        "import numpy as np\ndef make():\n    return np.ones((40, 3)), np.zeros(40, int)\n"
    )
    (tmp_path / "pairs.tsv").write_text("".join(f"a{n}\tb\t{n % 6}\n" for n in range(40)))
    model = {
        "type": "WordLevel",
        "vocab": {"[UNK]": 0, "b": 1, **{f"a{n}": n + 2 for n in range(40)}},
        "unk_token": "[UNK]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    split = {"type": "Whitespace"}
    (tmp_path / "words.json").write_text(json.dumps({"version": "1.0", "model": model, "pre_tokenizer": split}))
    (tmp_path / "words.txt").write_text("".join(f"a{n % 40} b\n" for n in range(80)))
    for number in range(40):
        (tmp_path / "images" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(tmp_path / "images" / str(number % 2) / f"{number}.png")
    boxes = [{"image_id": n, "category_id": 7, "bbox": [0, 1, 2, 2]} for n in range(40)]
    images = [{"id": n, "file_name": f"{n % 2}/{n}.png"} for n in range(40)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "a"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "labels" / "1").mkdir(parents=True)
    (tmp_path / "labels" / "1" / "3.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "texts.tsv").write_text("".join(f"images/{n % 2}/{n}.png\tword {n}\n" for n in range(40)))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"x": [n, 1.5], "kind": n % 2}) + "\n" for n in range(40)))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.jsonl").write_bytes((tmp_path / "data.jsonl").read_bytes())
    for number in range(40):
        path = tmp_path / "sounds" / str(number % 2) / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(np.full(80, number, np.int16).tobytes())
    (tmp_path / "calls").mkdir()
    for number in range(40):
        np.savez(tmp_path / "calls" / f"{number:02}.npz", x=np.full((1, 3), number, np.float32))
        place = tmp_path / "zoo" / f"test_data_set_{number}"
        place.mkdir(parents=True)
        tensor = numpy_helper.from_array(np.full((1, 3), number, np.float32), "x")
        (place / "input_0.pb").write_bytes(tensor.SerializeToString())
    return tmp_path


SECTIONS = {
    "requests": RequestsParams(path="calls"),
    "onnx_test_data": OnnxTestDataParams(path="zoo"),
    "random": RandomParams.model_validate({"inputs": {"x": {"shape": [3]}}, "samples": 40}),
    "digits": DigitsParams(),
    "npz": NpzParams(path="data.npz"),
    "csv": CsvParams(path="data.csv", label="kind"),
    "image_folder": ImageFolderParams(path="images"),
    "mask_folder": MaskFolderParams(path="images", masks="images"),
    "coco": CocoDataParams(path="images", annotations="instances.json"),
    "yolo": YoloDataParams(path="."),
    "text_images": TextImagesParams(path="texts.tsv"),
    "wav_folder": WavFolderParams(path="sounds", labels="folders"),
    "jsonl": JsonlParams.model_validate({"path": "data.jsonl", "inputs": ["x"], "label": "kind"}),
    "hf_dataset": HfDatasetParams.model_validate({"path": "tables", "inputs": ["x"], "label": "kind"}),
    "python": PythonDatasetParams(factory="data.py:make"),
    "sentence_pairs": SentencePairsParams(
        path="pairs.tsv", columns={"first": 0, "second": 1, "label": 2}, tokenizer="tokenizer.json", max_length=4
    ),
    "text": TextParams(files=("words.txt",), tokenizer="words.json", window=4),
}


def section(source: str, **sizes) -> DataSection:
    return DataSection(source, SECTIONS[source], SplitSizes(**{"calibration": 8, **sizes}))


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "loop"], ids=repr)
@pytest.mark.parametrize(
    "source",
    [
        lambda name: DataSection("npz", NpzParams(path=name), SplitSizes()),
        lambda name: DataSection("csv", CsvParams(path=name, label="kind"), SplitSizes()),
        lambda name: DataSection("image_folder", ImageFolderParams(path=name), SplitSizes()),
        lambda name: DataSection("mask_folder", MaskFolderParams(path=name, masks="."), SplitSizes()),
        lambda name: DataSection("python", PythonDatasetParams(factory=f"{name}.py:make"), SplitSizes()),
        lambda name: ModelSection("onnx", OnnxParams(path=name)),
        lambda name: ModelSection("python", PythonModelParams(factory=f"{name}.py:make", input_shape=(3,))),
    ],
    ids=["npz", "csv", "image_folder", "mask_folder", "python data", "onnx", "python"],
)
def test_a_name_that_no_file_can_have_is_a_usage_error(folder, source, name):
    for link in ("loop", "loop.py"):
        (folder / link).symlink_to(folder / link)
    asked = source(name)
    identify = model_fingerprint if isinstance(asked, ModelSection) else partial(dataset_fingerprint, seed=0)
    with pytest.raises(UsageError):
        identify(asked, folder)


def test_every_listed_source_has_code_behind_it():
    from compressctl.core.registry import load

    for registry in (model_sources, datasets):
        for name in registry.names():
            spec = registry.get(name)
            assert callable(load(spec.implementation))
            assert callable(load(spec.fingerprint))
            assert all(field.description for field in spec.params.model_fields.values())


def test_every_dataset_is_tested_here():
    assert set(SECTIONS) == set(datasets.names())


@pytest.mark.parametrize("source", SECTIONS)
def test_the_fingerprint_follows_sizes_and_seed(folder, source):
    seen = {
        dataset_fingerprint(section(source), folder, 0),
        dataset_fingerprint(section(source), folder, 1),
        dataset_fingerprint(section(source, calibration=9), folder, 0),
    }
    assert len(seen) == 3


@pytest.mark.parametrize("source", SECTIONS)
def test_splits_never_overlap_and_reading_twice_is_the_same(folder, source):
    dataset = load_dataset(section(source), folder, 3)
    seen: list[int] = []
    for name in ("train", "validation", "calibration", "test"):
        first, second = (list(dataset.split(name).batches(7)) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert np.array_equal(one.indices, other.indices)
            assert all(np.array_equal(array, other.inputs[name]) for name, array in one.inputs.items())
            assert repr(one.labels) == repr(other.labels)
        assert sum(len(batch.indices) for batch in first) == len(dataset.split(name))
        seen.extend(index for batch in first for index in batch.indices.tolist())
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("source", SECTIONS)
def test_inputs_are_float32_or_tokens_with_samples_first(folder, source):
    batch = next(load_dataset(section(source), folder, 3).split("calibration").batches(5))
    wanted = np.int64 if source in ("sentence_pairs", "text") else np.float32
    assert {array.dtype for array in batch.inputs.values()} == {np.dtype(wanted)}
    if source in ("requests", "onnx_test_data", "random"):
        assert batch.labels is None
        assert {len(array) for array in batch.inputs.values()} == {len(batch.indices)}
    else:
        assert {len(array) for array in batch.inputs.values()} == {len(batch.labels)} == {len(batch.indices)} == {5}


def test_a_model_comes_in_the_form_that_its_source_promises():
    pytest.importorskip("torch")
    assert load_model(RESNET, Path(), 0).form == model_sources.get("builtin").form == Form.TORCH


def test_without_torch_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError) as error:
        load_model(RESNET, Path(), 0)
    assert "pip install 'compressctl[torch]'" in str(error.value)


def test_fingerprints_need_no_torch(tmp_path):
    (tmp_path / "nets.py").write_text("import torch\nraise RuntimeError('executed')\n")
    code = """
import sys
from functools import partial
from pathlib import Path
from compressctl.core.source import SplitSizes
from compressctl.recipe.schema import DataSection, ModelSection
from compressctl.sources.load import dataset_fingerprint, model_fingerprint
from compressctl.sources.params import BuiltinParams, DigitsParams, PythonModelParams
base = Path(sys.argv[1])
model_fingerprint(ModelSection("builtin", BuiltinParams(name="digits-resnet")), base)
model_fingerprint(ModelSection("python", PythonModelParams(factory="nets.py:net", input_shape=(1,))), base)
model_fingerprint(ModelSection("python", PythonModelParams(factory="torch.nn:Linear", input_shape=(1,))), base)
dataset_fingerprint(DataSection("digits", DigitsParams(), SplitSizes()), base, 0)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_a_models_fingerprint_is_stable():
    assert model_fingerprint(RESNET, Path()) == model_fingerprint(RESNET, Path("elsewhere"))
