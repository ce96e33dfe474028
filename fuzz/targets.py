"""One target per reader: bytes go in, and nothing but one of our own errors may come out."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.errors import CompressctlError, MachineError, UsageError

SEEDS = Path(__file__).parent / "corpus"
"""A folder per target: past finds, and small files to begin with."""


@dataclass(frozen=True)
class Target:
    """read: reads the bytes in a folder of its own, where it may write. seeds: valid inputs, made when they are asked for."""

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]

    def corpus(self, name: str) -> list[bytes]:
        folder = SEEDS / name
        return [path.read_bytes() for path in sorted(folder.glob("*"))] if folder.is_dir() else []


def _recipe(data: bytes, folder: Path) -> None:
    from compressctl.recipe.loader import load

    (folder / "r.yaml").write_bytes(data)
    load(folder / "r.yaml")


def _recipes() -> list[bytes]:
    root = Path(__file__).parent.parent
    found = [path for place in ("recipes", "examples") for path in sorted((root / place).rglob("*.yaml"))]
    return [path.read_bytes() for path in found if path.stat().st_size < 4000]


def _set(data: bytes, folder: Path) -> None:
    """A line each for --set, as the command line has them."""
    from compressctl.recipe.loader import load

    text = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\nstages: [{use: quantize.static}]\n"
    lines = [line.decode("utf-8", "surrogateescape") for line in data.split(b"\n")]
    load(folder / "r.yaml", lines[:20], text=text)


def _sets() -> list[bytes]:
    lines = [
        "stages.quantize.static.ranges=mse",
        "name=x",
        "budget={speedup: 1.5, size: 5MB}",
        "seed=3",
        "vars.a=1",
        "name=${a}",
    ]
    return [
        "\n".join(lines).encode(),
        b"stages[0].overrides=[{match: a, weights: float}]",
        b"target.shapes.H=32",
        b"export=[onnxruntime]",
    ]


def _npz(data: bytes, folder: Path) -> None:
    """A zip archive, or one array that is put into an archive whose sums are right."""
    from compressctl.core.source import SplitSizes
    from compressctl.sources.npz import load
    from compressctl.sources.params import NpzParams

    path = folder / "data.npz"
    path.write_bytes(
        data if data[:2] == b"PK" else _archive({"inputs.npy": data, "labels.npy": _npy(np.arange(20) % 3)})
    )
    _use(load(NpzParams(path="data.npz"), SplitSizes(calibration=4, validation=4, test=4), folder, 0))


def _request(data: bytes, folder: Path) -> None:
    from compressctl.core.source import SplitSizes
    from compressctl.sources.params import RequestsParams
    from compressctl.sources.requests import load

    path = folder / "calls"
    path.mkdir(exist_ok=True)
    (path / "a.npz").write_bytes(data if data[:2] == b"PK" else _archive({"x.npy": data, "y.npy": _npy(np.arange(2))}))
    _use(load(RequestsParams(path="calls", labels="y"), SplitSizes(calibration=0, validation=0, test=1), folder, 0))


def _arrays() -> list[bytes]:
    values = np.random.default_rng(0)
    arrays = [
        values.random((20, 3)).astype(np.float32),
        values.integers(0, 255, (20, 2, 2, 1), np.uint8),
        np.arange(20),
        np.float64(3),
    ]
    texts = [np.array(["a", "bc"]), np.zeros(2, "M8[s]"), np.zeros(20, [("a", "<i4")])]
    stored = [_npy(array) for array in [*arrays, *texts]]
    return [
        *stored,
        _archive({"inputs.npy": stored[0], "labels.npy": stored[2]}),
        _archive({"x": b"text", "inputs.npy": stored[1]}),
    ]


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _use(dataset: Any) -> None:
    """Read a batch of each split, as a run does."""
    for name in ("train", "calibration", "validation", "test"):
        next(iter(dataset.split(name).batches(4)), None)


def _csv(data: bytes, folder: Path) -> None:
    from compressctl.core.source import SplitSizes
    from compressctl.sources.csv_table import load
    from compressctl.sources.params import CsvParams

    (folder / "t.csv").write_bytes(data)
    task = "regression" if data[:1] == b"v" else "classification"
    params = CsvParams(path="t.csv", label="y", task=task)
    _use(load(params, SplitSizes(calibration=1, validation=1, test=1), folder, 0))


def _tables() -> list[bytes]:
    rows = "".join(f"{n},{n * 0.5},{n % 3}\n" for n in range(12))
    return [
        f"a,b,y\n{rows}".encode(),
        f"v,b,y\n{rows}".encode(),
        b'a,"b\n c",y\n1,2,x\n3,4,z\n5,6,x\n7,8,"q""r"\n',
        b"\xef\xbb\xbfa,y\n1,2\n3,4\n5,6\n7,8\n",
    ]


def _image(data: bytes, folder: Path) -> None:
    from compressctl.sources.images import Preparation, decode_all

    decode_all([data], ["image"], Preparation(resize=(8, 8)))


def _images() -> list[bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    found = []
    for kind, mode in [
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "LA"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("BMP", "RGB"),
        ("GIF", "P"),
        ("WEBP", "RGB"),
        ("TIFF", "RGB"),
        ("TIFF", "F"),
        ("PPM", "RGB"),
        ("PPM", "1"),
    ]:
        stream = io.BytesIO()
        Image.fromarray(pixels).convert("L" if mode == "F" else mode).convert(mode).save(stream, kind)
        found.append(stream.getvalue())
    return found


def _pairs(data: bytes, folder: Path) -> None:
    """The table alone: texts are cut into tokens by another package."""
    from compressctl.sources.params import SentencePairsParams
    from compressctl.sources.sentence_pairs import _read

    (folder / "p.tsv").write_bytes(data)
    columns = {"first": "a", "second": "b", "label": "y"} if data[:1] == b"a" else {"first": 0, "second": 1, "label": 2}
    _read(folder / "p.tsv", SentencePairsParams(path="p.tsv", tokenizer="t.json", columns=columns))


def _pair_tables() -> list[bytes]:
    return [b"a\tb\ty\nx\ty z\t0.5\nu\tv\t4\n", b"x\ty\t1\nu\tv w\t2.5\tmore\n"]


def _labels(data: bytes, folder: Path) -> None:
    """A table of labels for three images."""
    from compressctl.core.source import SplitSizes
    from compressctl.sources.image_folder import load
    from compressctl.sources.params import ImageFolderParams

    images = folder / "images"
    if not images.is_dir():
        images.mkdir()
        for number in range(3):
            (images / f"{number}.png").write_bytes(_images()[0])
    (folder / "labels.csv").write_bytes(data)
    sizes = SplitSizes(calibration=1, validation=1, test=1)
    _use(load(ImageFolderParams(path="images", labels="labels.csv"), sizes, folder, 0))


def _label_tables() -> list[bytes]:
    return [
        b"file,label\n0.png,a\n1.png,b\n2.png,a\n",
        b"label,file\r\n3,0.png\r\n1,1.png\r\n0,2.png\r\n",
        b"file,label,x\n0.png,1,2\n1.png,0,2\n2.png,1,2\n",
    ]


def _mask(data: bytes, folder: Path) -> None:
    """A mask beside an image: pixels as classes, and pixels that are given classes."""
    from compressctl.core.source import SplitSizes
    from compressctl.sources.mask_folder import load
    from compressctl.sources.params import MaskFolderParams

    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    if not (folder / "images" / "0.png").exists():
        (folder / "images" / "0.png").write_bytes(_images()[0])
        (folder / "classes.txt").write_text("a\nb\n")
    (folder / "masks" / "0.png").write_bytes(data)
    sizes = SplitSizes(calibration=0, validation=0, test=1)
    plain = MaskFolderParams(path="images", masks="masks")
    named = MaskFolderParams(path="images", masks="masks", classes="classes.txt", resize=8, values={"0": 0, "255": 1})
    _all(lambda: _use(load(plain, sizes, folder, 0)), lambda: _use(load(named, sizes, folder, 0)))


def _masks() -> list[bytes]:
    from PIL import Image

    classes = np.random.default_rng(0).integers(0, 2, (9, 7), np.uint8)
    found = []
    for image, kind in [
        (Image.fromarray(classes), "PNG"),
        (Image.fromarray(classes * 255), "BMP"),
        (Image.fromarray(classes).convert("P"), "PNG"),
        (Image.fromarray(classes * 255).convert("1"), "TIFF"),
        (Image.fromarray(classes.astype(np.uint16)), "PNG"),
        (Image.fromarray(classes).convert("RGB"), "PNG"),
    ]:
        stream = io.BytesIO()
        image.save(stream, kind)
        found.append(stream.getvalue())
    return found


def _coco(data: bytes, folder: Path) -> None:
    """The JSON file of two images' boxes."""
    from compressctl.core.source import SplitSizes
    from compressctl.sources.coco import load
    from compressctl.sources.params import CocoDataParams

    _image_folder(folder)
    (folder / "a.json").write_bytes(data)
    params = CocoDataParams(path="images", annotations="a.json", resize=(8, 8), letterbox="center")
    _use(load(params, SplitSizes(calibration=0, validation=0, test=1), folder, 0))


def _annotations() -> list[bytes]:
    image, box = {"id": 1, "file_name": "0.png"}, {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]}
    categories = [{"id": 2, "name": "a"}, {"id": 5, "name": "b"}]
    other = {"id": "x", "file_name": "1.png", "height": 9, "width": 7}
    crowd = {"image_id": "x", "category_id": 5, "bbox": [0.5, 1e-3, 6, 99], "iscrowd": 1}
    return [
        json.dumps({"images": [image], "annotations": [box], "categories": categories}).encode(),
        json.dumps({"categories": categories, "annotations": [box, crowd], "images": [other, image]}).encode(),
    ]


def _yolo(data: bytes, folder: Path) -> None:
    """A description of the data where it begins as one, else a file of boxes."""
    from compressctl.core.source import SplitSizes
    from compressctl.sources.params import YoloDataParams
    from compressctl.sources.yolo import load

    _image_folder(folder)
    (folder / "labels").mkdir(exist_ok=True)
    is_description = data[:1] not in b"0123456789"
    (folder / "data.yaml").write_bytes(data if is_description else b"train: images\nnames: [a, b]\n")
    (folder / "labels" / "0.txt").write_bytes(b"0 0.5 0.5 0.5 0.5\n" if is_description else data)
    (folder / "list.txt").write_bytes(b"./images/0.png\n")
    params = YoloDataParams(path="data.yaml", resize=8, center_crop=8)
    _use(load(params, SplitSizes(calibration=0, validation=0, test=1), folder, 0))


def _yolo_files() -> list[bytes]:
    return [
        b"train: images\nval: [images]\nnames: {0: a, 1: b}\n",
        b"path: ../x\ntrain: list.txt\nnames:\n- a\n- 'b c'\n",
        b"0 0.5 0.5 0.25 0.1\n1 0.1 1 0.2 1e-3\n",
        b"1 0.1 0.2 0.3 0.4 0.5 0.6\n",
    ]


def _image_folder(folder: Path) -> None:
    """Two images, made once."""
    (folder / "images").mkdir(exist_ok=True)
    for name, image in zip(("0.png", "1.png"), _images(), strict=False):
        if not (folder / "images" / name).exists():
            (folder / "images" / name).write_bytes(image)


def _alphabet(data: bytes, folder: Path) -> None:
    """Letters in lines, a vocabulary in JSON, a file of class names, and letters in a model's metadata."""
    from compressctl.sources.class_names import class_names
    from compressctl.tasks.alphabet import letters_of, tokens_of

    for name in ("a.txt", "v.json", "m.onnx"):
        (folder / name).write_bytes(data)
    _all(
        lambda: letters_of("a.txt", folder),
        lambda: tokens_of("v.json", folder),
        lambda: class_names(folder / "a.txt"),
        lambda: letters_of("m.onnx", folder),
    )


def _alphabets() -> list[bytes]:
    from onnx import helper

    model = helper.make_model(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], []))
    model.metadata_props.add(key="character", value="a\nb\n ")
    return [b"a\nb\n \n", b'{"a": 0, "b": 1}', '["<s>", "ä", "\\ud83d"]'.encode(), model.SerializeToString()]


def _all(*reads: Callable[[], object]) -> None:
    """Every one of them, also where an earlier one refuses. Refused is what all refuse."""
    refused: list[CompressctlError] = []
    for read in reads:
        try:
            read()
        except CompressctlError as error:
            if isinstance(error, MachineError):
                raise
            refused.append(error)
    if len(refused) == len(reads):
        raise refused[0]


def _safetensors(data: bytes, folder: Path) -> None:
    """A file, or a header that is put in front of enough numbers."""
    from compressctl.sources.structure.files import read_network

    if data[:1] == b"{":
        data = struct.pack("<Q", len(data)) + data + bytes(4096)
    (folder / "w.safetensors").write_bytes(data)
    if not (folder / "s.json").exists():
        (folder / "s.json").write_bytes(_structures()[0])
    read_network(_network(), folder / "w.safetensors", folder / "s.json")


def _weights() -> list[bytes]:
    _, weights = _written()
    length = struct.unpack("<Q", weights[:8])[0]
    return [weights, weights[8 : 8 + length]]


def _structure(data: bytes, folder: Path) -> None:
    from compressctl.sources.structure.files import read_network

    (folder / "s.json").write_bytes(data)
    if not (folder / "w.safetensors").exists():
        (folder / "w.safetensors").write_bytes(_weights()[0])
    read_network(_network(), folder / "w.safetensors", folder / "s.json")


def _structures() -> list[bytes]:
    return [_written()[0]]


@cache
def _network() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


@cache
def _written() -> tuple[bytes, bytes]:
    """structure.json and the weights of the same network with a narrower and a replaced layer."""
    import copy
    import tempfile

    from torch import nn

    from compressctl.sources.structure.files import STRUCTURE, WEIGHTS, write_network

    changed = copy.deepcopy(_network())
    changed[0], changed[1], changed[4] = (
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 3)),
    )
    with tempfile.TemporaryDirectory() as folder:
        write_network(changed.eval(), _network(), Path(folder))
        return (Path(folder) / STRUCTURE).read_bytes(), (Path(folder) / WEIGHTS).read_bytes()


def _onnx(data: bytes, folder: Path) -> None:
    from compressctl.graph.canonical import canonical
    from compressctl.graph.unpack_constants import unpack_constants
    from compressctl.sources.onnx_file import read_onnx, signature_of

    path = folder / "m.onnx"
    path.write_bytes(data)
    proto = read_onnx(path)
    signature_of(proto.graph, path)
    canonical(unpack_constants(proto))


def _models() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.random.default_rng(0).random((4, 3)).astype(np.float32), "w")
    codes = numpy_helper.from_array(np.arange(12, dtype=np.int8).reshape(4, 3), "q")
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 3))]

    def model(nodes: list[Any], constants: list[Any]) -> bytes:
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        content: bytes = made.SerializeToString()
        return content

    dequantize = helper.make_node("DequantizeLinear", ["q", "s"], ["d"])
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"])], "then", [], [helper.make_empty_tensor_value_info("t")]
    )
    other = helper.make_graph(
        [helper.make_node("Constant", [], ["e"], value=weight)], "else", [], [helper.make_empty_tensor_value_info("e")]
    )
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.bool_(True)))
    return [
        model([helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])], [weight]),
        model([dequantize, helper.make_node("Gemm", ["x", "d"], ["y"], alpha=0.5)], [codes, scale]),
        model([condition, helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)], [weight]),
    ]


def _test_data(data: bytes, folder: Path) -> None:
    from compressctl.core.source import SplitSizes
    from compressctl.sources.onnx_test_data import load
    from compressctl.sources.params import OnnxTestDataParams

    call = folder / "test_data_set_0"
    call.mkdir(exist_ok=True)
    (call / "input_0.pb").write_bytes(data)
    _use(load(OnnxTestDataParams(path="."), SplitSizes(calibration=0, validation=0, test=1), folder, 0))


def _tensors() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    values = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True]), np.int64(3), np.array(["a", "b"], object)]
    made = [numpy_helper.from_array(value, "x") for value in values]
    made += [
        helper.make_tensor("x", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("x", TensorProto.INT4, [3], [1, 2, 3]),
    ]
    return [tensor.SerializeToString() for tensor in made]


def _packed(data: bytes, folder: Path) -> None:
    """A file without its digest, or, behind a 0, the bytes of a ledger and of bodies, which get the head that belongs to them."""
    from compressctl import packed
    from compressctl.packed.cursor import varint
    from compressctl.packed.decode import lzma_filters

    if data[:1] == b"\0":
        length = int.from_bytes(data[1:4], "little")
        head, bodies = data[4 : 4 + length], data[4 + length :]
        squeezed = lzma.compress(head, lzma.FORMAT_RAW, filters=lzma_filters(len(head)))
        data = b"CCTL\1" + varint(len(head)) + varint(len(squeezed)) + squeezed + bodies
    path = folder / "m.cctl"
    path.write_bytes(data + hashlib.blake2b(data, digest_size=16).digest())
    with packed.PackedModel(path, 1 << 22) as model:
        model.lines()
        for _ in model.tensors():
            pass
        model.write(folder / "m.onnx")


@cache
def _packed_files() -> list[bytes]:
    import tempfile

    from onnx import helper, numpy_helper

    from compressctl.packed.ledger import write_ledger
    from compressctl.packed.pack import pack

    rng = np.random.default_rng(0)
    shared = (
        rng.choice(np.float32([0, 0, 0, 0.3, -1.1]), (20, 40)) * np.linspace(0.7, 1.3, 20, dtype=np.float32)[:, None]
    )
    arrays = [
        rng.random((8, 60)).astype(np.float32),
        np.where(rng.random((40, 30)) < 0.1, rng.integers(1, 4, (40, 30)), 0).astype(np.float32),
        shared,
        rng.integers(-8, 8, (12, 50)).astype(np.int8),
        rng.integers(0, 3, 900),
        np.zeros(3000, np.float16),
    ]
    tensors = [numpy_helper.from_array(array, str(number)) for number, array in enumerate(arrays)]
    tensors.append(helper.make_tensor("varints", 7, [5], [1, 300, -1, 0, 7]))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for some in ([tensors[0]], [tensors[1]], tensors[2:4], tensors[4:], tensors):
            graph = helper.make_graph([helper.make_node("Identity", [some[0].name], ["y"])], "g", [], [], some)
            (Path(folder) / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
            ledger = pack(Path(folder) / "m.onnx", Path(folder) / "m.cctl")
            content = (Path(folder) / "m.cctl").read_bytes()[:-16]
            head = write_ledger(ledger)
            bodies = content[len(content) - sum(body.packed_bytes for body in ledger.bodies) :]
            found += [content, b"\0" + len(head).to_bytes(3, "little") + head + bodies]
    return found


def _report(data: bytes, folder: Path) -> None:
    from compressctl.cli.runs import _words
    from compressctl.report import as_junit, as_markdown, as_sarif
    from compressctl.report.read import read_report, showing
    from compressctl.report.side_by_side import side_by_side

    (folder / "report.json").write_bytes(data)
    with showing(folder):
        report = read_report(folder / "report.json")
        _words(report)
        for renderer in (as_markdown, as_junit, as_sarif):
            renderer.render(report)
        side_by_side([(folder, report), (folder, report)], None)


def _reports() -> list[bytes]:
    import json

    found = []
    for path in sorted((Path(__file__).parent.parent / "tests" / "report" / "before_renames").glob("*/report.json")):
        report = json.loads(path.read_text())
        found.append(json.dumps(report).encode())
    return found


def _text_list(data: bytes, folder: Path) -> None:
    """A list of pictures of each kind: the first byte says which."""
    from compressctl.core.source import SplitSizes
    from compressctl.sources.params import TextImagesParams
    from compressctl.sources.text_images import load

    name = {b"{": "l.jsonl", b"f": "l.csv"}.get(data[:1], "l.txt")
    if not (folder / "0.png").exists():
        (folder / "0.png").write_bytes(_images()[0])
    (folder / name).write_bytes(data)
    sizes = SplitSizes(calibration=0, validation=0, test=1)
    _use(load(TextImagesParams(path=name, height=8), sizes, folder, 0))


def _text_lists() -> list[bytes]:
    return [b"0.png\tsome text\n", b'file,text\n0.png,"a, b"\n', b'{"file": "0.png", "text": "x"}\n']


def _sound(data: bytes, folder: Path) -> None:
    from compressctl.sources.wav_file import read_wav

    (folder / "a.wav").write_bytes(data)
    read_wav(folder / "a.wav")


def _sounds() -> list[bytes]:
    from scipy.io import wavfile

    values = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    found = []
    for array in (
        values.astype(np.float32),
        (values * 32767).astype(np.int16),
        (values[:, 0] * 100 + 128).astype(np.uint8),
    ):
        stream = io.BytesIO()
        wavfile.write(stream, 8000, array)
        found.append(stream.getvalue())
    return found


def _jsonl(data: bytes, folder: Path) -> None:
    from compressctl.core.source import SplitSizes
    from compressctl.sources.jsonl import load
    from compressctl.sources.params import JsonlParams

    (folder / "d.jsonl").write_bytes(data)
    sizes = SplitSizes(calibration=0, validation=0, test=1)
    _use(load(JsonlParams(path="d.jsonl", inputs=("x",), label="y", text=data[-2:-1] == b" "), sizes, folder, 0))


def _json_lines() -> list[bytes]:
    return [
        b'{"x": [1, 2.5], "y": 1}\n{"x": [3], "y": 0}\n',
        b'{"x": 3, "y": "a"}\n{"x": -1e3, "y": "b"}\n',
        b'{"x": [[1], [2]], "y": "a b"} \n',
    ]


def _zoo_manifest(data: bytes, folder: Path) -> None:
    """A manifest, and the jobs that it makes of three files about which something is known."""
    from compressctl.zoo.facts import FactsReader, ModelFacts
    from compressctl.zoo.jobs import jobs_of
    from compressctl.zoo.load import load_manifest

    class Known(FactsReader):
        def read(self, path: Path) -> ModelFacts:
            return ModelFacts(ops=("Conv", "LSTM"), parameters=10**9, size=10**9, inputs=2, open_axes=True)

    (folder / "models").mkdir(exist_ok=True)
    for name in ("a.onnx", "b.onnx", "models/c.onnx"):
        (folder / name).touch()
    (folder / "zoo.yaml").write_bytes(data)
    manifest = load_manifest(folder / "zoo.yaml")
    if b"://" in data:
        return  # nothing is asked of others' machines
    if not any(entry.glob and (entry.glob.startswith("/") or ".." in entry.glob) for entry in manifest.models):
        list(jobs_of(manifest, folder, Known()))  # a whole disk is nobody's small input


def _manifests() -> list[bytes]:
    return [
        b"zoo: compressctl/v1\nvars: {m: 2GiB}\ndefaults: {recipe: r.yaml, resources: {memory: '${m}', time: 30m, cores: 2}}\n"
        b"recipes:\n  - {when: {ops: [LSTM], parameters: '>50M <2G', id: 'a*'}, use: s.yaml, set: {seed: 1}}\n"
        b"models:\n  - {id: a, path: a.onnx, budget: {speedup: 1.2}, tags: [x]}\n  - {glob: 'models/**/*.onnx'}\n"
        b"budget: {at_most_failed: 2 %, total_size: 2GB}\n",
        b"zoo: compressctl/v1\nname: n\nmatch: all\nrecipes: [{use: r.yaml}, {use: s.yaml, id: t, when: {no_ops: [GRU], tags: []}}]\n"
        b"models: [{path: b.onnx, task: detection, recipe: own.yaml}, {id: c, model: {source: builtin, name: digits-resnet}}]\n"
        b"include: ['[a-c]*']\nexclude: [d]\n",
    ]


def _zoo_results(data: bytes, folder: Path) -> None:
    """A job's result, or rows of the leaderboard before: merged, counted, and shown in all forms."""
    from compressctl.zoo.drive import whole
    from compressctl.zoo.leaderboard import leaderboard, write
    from compressctl.zoo.merge import merge
    from compressctl.zoo.results import write_mark
    from compressctl.zoo.schema import ZooBudget

    (folder / "shard" / "results").mkdir(parents=True, exist_ok=True)
    write_mark(folder / "shard", "z")
    is_result = not data.startswith(b'{"row')
    (folder / "shard" / "results" / "a.json").write_bytes(data if is_result else _zoo_files()[0])
    (folder / "all" / "results" / "a.json").unlink(missing_ok=True)
    (folder / "all").mkdir(exist_ok=True)
    write_mark(folder / "all", "z")
    (folder / "all" / "leaderboard.before.jsonl").write_bytes(b"" if is_result else data[5:])
    merge([folder / "shard"], folder / "all")
    whole(folder / "all", ZooBudget(at_most_failed="2 %", total_size=1000))
    write(leaderboard("z", folder / "all"), folder / "all")


@cache
def _zoo_files() -> list[bytes]:
    from dataclasses import asdict

    from compressctl.zoo.leaderboard import row_of
    from compressctl.zoo.results import Figures, JobResult, Outcome

    figures = Figures(
        backend="onnxruntime", size_before=1000, size_after=250, speed=1.5, speed_low=1.4, speed_high=1.6, metric="accuracy",
        score_before=90.0, score_after=89.5, sqnr_db=30.0, cosine=0.99, headline="smaller",
    )  # fmt: skip
    good = JobResult(
        job="a", model="a", recipe="int8", why="the default", key="k", outcome=Outcome.GOOD, message="so it is", exit_code=0,
        attempts=1, started=1.7e9, seconds=3.0, paused_seconds=0.5, peak_memory=1 << 30, host="h", log="logs/a.log",
        report="runs/a/report.html", figures=figures, command=("compressctl", "apply"),
    )  # fmt: skip
    failed = good.model_copy(update={"outcome": Outcome.FAILED, "figures": None, "message": "stage x failed"})
    results = [one.model_dump_json().encode() for one in (good, failed)]
    rows = b"\n".join(
        json.dumps({**asdict(row_of(good)), "job": job, **changes}).encode()
        for job, changes in (("a", {"size_after": 300, "faster_low": 0.1, "faster_high": 0.2}), ("b", {}))
    )
    return [*results, b'{"row' + rows]


def _lock(data: bytes, folder: Path) -> None:
    """What `diagnose` and `reproduce` read of a run beside its report."""
    from compressctl.recipe.lock import load_lock

    (folder / "recipe.lock.yaml").write_bytes(data)
    load_lock(folder / "recipe.lock.yaml")


def _locks() -> list[bytes]:
    return [
        b"recipe:\n  recipe: compressctl/v1\n  name: x\n  model: {source: builtin, name: digits-resnet}\n  data: {source: digits}\n"
        b"  stages:\n  - {id: q, use: quantize.static, ranges: mse}\nbase: ~/x\nmodel_sha256: '0'\nstage_seeds: {q: 3}\n",
        b"base: /tmp\nenvironment: {cpu: x, packages: {numpy: 1.0.0}}\nrecipe: {recipe: compressctl/v1, model: {source: onnx, path: ~/m.onnx},"
        b" data: {source: npz, path: d.npz}, stages: [{use: quantize.weights, bits: 4}]}\n",
    ]


def _search_tables(data: bytes, folder: Path) -> None:
    """What layers lose and take, of a search or of another machine: shown, put together with times, and chosen by."""
    from compressctl.search.costs import Costs
    from compressctl.search.explained import rows
    from compressctl.search.kept_tables import read_table
    from compressctl.search.planned import Planner
    from compressctl.search.request import Goal

    (folder / "tables.json").write_bytes(data)
    found = read_table(folder / "tables.json")
    if found is None:
        raise UsageError("no tables")
    list(rows(found, None, None))
    merged = Costs(found, folder / "tables.json").with_times(found)
    planner = Planner(merged, Goal(drop=2.0, speedup=1.2), 4000, "balanced")
    for one in planner.more({}):
        Costs(found, folder / "tables.json").on_target(one)


def _search_widths(data: bytes, folder: Path) -> None:
    """What narrower layers and missing blocks lose and save: shown, and planned by."""
    from compressctl.search.explained_widths import rows, said
    from compressctl.search.kept_tables import read_widths
    from compressctl.search.width_program import WidthProgram

    (folder / "widths.json").write_bytes(data)
    found = read_widths(folder / "widths.json")
    if found is None:
        raise UsageError("no tables")
    list(rows(found, None, None))
    said(found, None)
    for has_four in (False, True):
        WidthProgram(found, has_four=has_four).solve(most_bytes=2000, least_saved_ms=0.5)


def _search_results(data: bytes, folder: Path) -> None:
    """search.json as explain-search reads it and pages show it."""
    from compressctl.search import as_html, as_markdown
    from compressctl.search.explained import point_of, read

    (folder / "search.json").write_bytes(data)
    (folder / "tables.json").write_bytes(_layer_tables()[0])
    found, _ = read(folder)
    point_of(found, None)
    as_html.render(found)
    as_markdown.render(found)


def _layer_tables() -> list[bytes]:
    options = [
        {"name": "int8", "width": "int8", "bytes": 900, "adds_ms": 0.0, "distance": {"int8": 0.1}},
        {"name": "float", "width": "float", "bytes": 3600, "adds_ms": 0.2, "distance": {"float": 0.0}},
        {"name": "shared8", "clusters": 8, "width": "int8", "bytes": 400, "adds_ms": 0.0, "distance": {"shared": 0.2}},
        {
            "name": "channel rank 4",
            "rank": "channel rank 4",
            "width": "int8",
            "bytes": 500,
            "distance": {"low rank": 1.0},
        },
    ]
    target = {
        "backend": "onnxruntime",
        "device": "cpu",
        "profile": "arm64",
        "threads": 4,
        "batch_size": 1,
        "shapes": {},
    }
    layers = [
        {"name": name, "nodes": [name], "op": "Conv", "parameters": 900, "options": options[:count]}
        for name, count in (("a", 4), ("b", 2))
    ]
    content = {
        "schema_version": "1.1", "key": "k", "distance": "d", "samples": 9, "target": target, "float_ms": 4.0, "integer_ms": 2.0,
        "float_bytes": 9000, "layers": layers, "seconds": 1.0, "sharing": {"compensate": True},
    }  # fmt: skip
    return [json.dumps(content).encode()]


def _width_tables() -> list[bytes]:
    widths = [{"channels": count, "saves_ms": saved, "distance": saved} for count, saved in ((8, 0.0), (4, 0.5))]
    sizes = [{"channels": [count], "parameters": 9 * count, "outputs": count, "macs": 900 * count} for count in (8, 4)]
    layers = [
        {"name": name, "groups": ["a"], "block": block, "sizes": sizes, "has_integers": True, "distance_int4": distance}
        for name, block, distance in (("a", "block", 0.2), ("b", None, None))
    ]
    content = {
        "schema_version": "1.0", "key": "k", "distance": "d", "samples": 9, "float_ms": 4.0, "integer_ms": 2.0, "float_bytes": 9000,
        "groups": [{"name": "a", "layers": ["a"], "kind": "x", "block": "block", "options": widths}],
        "blocks": [{"name": "block", "saves_ms": 1.0, "distance": 0.4}], "layers": layers, "seconds": 1.0,
    }  # fmt: skip
    return [json.dumps(content).encode()]


def _searches() -> list[bytes]:
    loss = {"value": 0.5, "kind": "metric", "what": "accuracy", "unit": "points", "split": "validation", "samples": 9}
    speed = {"ratio": 2.0, "low": 1.9, "high": 2.1, "verdict": "faster"}
    figures = {"total_bytes": 900, "smaller": 4.0, "transport_bytes": 800, "speed": speed, "loss": loss}
    point = {
        "name": "int8", "family": "int8", "words": "8 bits", "key": "k", "state": "measured", "figures": figures, "seconds": 1.0,
        "measure_seconds": 0.5, "weight": 1.0, "kind": "planned", "risk": 1, "recipe": {"stages": [{"use": "quantize.static"}]},
        "predicted": {"by": "tables", "total_bytes": 950, "times_faster": 2.2, "loss": 0.4},
    }  # fmt: skip
    content = {
        "schema_version": "1.3", "name": "net", "status": "met", "exit_code": 0, "summary": ["Found."], "level": None, "prefer": "balanced",
        "goal": [{"name": "drop", "asked": 1.0, "words": "at most 1 lost"}], "judged": "by labels", "chosen": "int8", "points": [point],
        "not_tried": [{"name": "x", "family": "y", "words": "z", "reason": "w"}], "original_bytes": 3600, "seconds": 2.0, "tables": "tables.json",
    }  # fmt: skip
    return [json.dumps(content).encode()]


def _facts(data: bytes, folder: Path) -> None:
    """A model's file as rules of a zoo ask for it. Whatever is wrong is a fact, too."""
    from compressctl.zoo.facts_worker import facts_of
    from compressctl.zoo.schema import holds

    (folder / "m.onnx").write_bytes(data)
    facts = facts_of(folder / "m.onnx")
    if facts.problem is not None:
        raise UsageError(facts.problem)
    for number in (facts.parameters, facts.size, facts.inputs):
        assert number is not None
        holds(">1M <=2G", number)


def _cache_entry(data: bytes, folder: Path) -> None:
    """An entry of a shared cache, unpacked as every machine does."""
    from compressctl.store.archive import DamagedError, unpack

    if data.startswith(b"{"):  # what it says of itself, around which the rest is built
        data = b"compressctl cache entry 1\n" + len(data).to_bytes(8) + data + b"{}weights"
    (folder / "archive").write_bytes(data)
    into = folder / "into" / "entry"
    shutil.rmtree(folder / "into", ignore_errors=True)
    into.mkdir(parents=True)
    with suppress(DamagedError):
        unpack(folder / "archive", _ENTRY, into)
    outside = {path.name for path in folder.iterdir()} - {"archive", "into"}
    assert not outside, outside
    assert sum(path.stat().st_size for path in into.rglob("*") if path.is_file()) <= len(data)


_ENTRY = "ab" * 32


def _cache_entries() -> list[bytes]:
    from compressctl.store.archive import pack

    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "part").mkdir()
        (Path(made) / "part" / "model.onnx").write_bytes(b"weights")
        (Path(made) / "model.json").write_text("{}")
        packed = io.BytesIO()
        pack(Path(made), _ENTRY, packed, without="manifest.json")
    whole = packed.getvalue()
    return [whole, whole[whole.index(b"{") :].removesuffix(b"{}weights")]


def _stored_result(data: bytes, folder: Path) -> None:
    """What a zoo's store says of a job, brought as another machine does."""
    from compressctl.store.address import parse
    from compressctl.zoo.stored import ZooStore

    store, here = folder / "store", folder / "here"
    (store / "results").mkdir(parents=True, exist_ok=True)
    (store / "results" / "a.json").write_bytes(data)
    run = store / "runs" / "a" / "0123456789abcdef" / "runs" / "a"
    run.mkdir(parents=True, exist_ok=True)
    (run / "report.html").write_bytes(b"x")
    shutil.rmtree(here, ignore_errors=True)
    ZooStore(parse(f"file://{store.absolute()}"), here).bring_all()


def _stored_results() -> list[bytes]:
    from compressctl.zoo.results import JobResult, Outcome

    result = JobResult(
        job="a", model="a", recipe="r", why="", key="k", outcome=Outcome.GOOD, message="", exit_code=0, attempts=1, started=1.0, seconds=1.0,
        paused_seconds=0.0, peak_memory=None, host="h", log="logs/a.log", report="runs/a/report.html", figures=None, command=(),
    )  # fmt: skip
    files = [{"name": "runs/a/report.html", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}]
    said = {"result": result.model_dump(mode="json"), "folder": "runs/a/0123456789abcdef", "files": files}
    return [json.dumps(said).encode()]


TARGETS = {
    "recipe": Target(_recipe, _recipes),
    "set": Target(_set, _sets),
    "npz": Target(_npz, _arrays),
    "requests": Target(_request, _arrays),
    "onnx_test_data": Target(_test_data, _tensors),
    "csv": Target(_csv, _tables),
    "images": Target(_image, _images),
    "sentence_pairs": Target(_pairs, _pair_tables),
    "text_list": Target(_text_list, _text_lists),
    "wav": Target(_sound, _sounds),
    "jsonl": Target(_jsonl, _json_lines),
    "labels": Target(_labels, _label_tables),
    "masks": Target(_mask, _masks),
    "coco": Target(_coco, _annotations),
    "yolo": Target(_yolo, _yolo_files),
    "alphabet": Target(_alphabet, _alphabets),
    "safetensors": Target(_safetensors, _weights),
    "structure": Target(_structure, _structures),
    "onnx": Target(_onnx, _models),
    "packed": Target(_packed, _packed_files),
    "report": Target(_report, _reports),
    "lock": Target(_lock, _locks),
    "search_tables": Target(_search_tables, _layer_tables),
    "search_widths": Target(_search_widths, _width_tables),
    "search_results": Target(_search_results, _searches),
    "zoo_manifest": Target(_zoo_manifest, _manifests),
    "zoo_results": Target(_zoo_results, _zoo_files),
    "model_facts": Target(_facts, _models),
    "cache_entry": Target(_cache_entry, _cache_entries),
    "stored_result": Target(_stored_result, _stored_results),
}

warnings.simplefilter("ignore")
