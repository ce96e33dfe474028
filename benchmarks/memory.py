"""What whole commands take of memory, and how long `inspect` takes on a graph of many nodes. Models are generated.

python benchmarks/memory.py [--only dynamic large calibration nodes] [--megabytes 1024] [--large 2200] [--folder build/memory]

Memory is anonymous and dirty: what a process and all its descendants together cannot give back to the files that they mapped.
It is read from /proc/*/smaps_rollup, pages that processes share counted once, every few hundredths of a second. Linux alone.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper

COMMAND = [sys.executable, "-m", "compressctl"]
WIDTH = 1024
NODES = 20_000
EVERY_SECONDS = 0.02


@dataclass(frozen=True)
class Run:
    """peak_bytes: anonymous and dirty, of all processes at one moment. parts: by process at that moment. own_bytes: the most that the
    command's first process took, which loads, compresses and writes; others open files in runtimes."""

    returncode: int
    seconds: float
    peak_bytes: int
    own_bytes: int
    parts: tuple[int, ...]
    said: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--megabytes", type=int, default=1024, help="of the model that quantize.dynamic is applied to")
    parser.add_argument("--large", type=int, default=2200, help="megabytes of the model past protobuf's 2 GiB")
    parser.add_argument("--folder", type=Path, default=Path("build/memory"), help="for models and runs; models stay")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison of seconds")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        print(f"\n{name}")
        for line in BENCHMARKS[name](options):
            print(line, flush=True)


def dynamic(options: argparse.Namespace) -> Iterator[str]:
    """The peak of a whole run of quantize.dynamic, in multiples of the weights."""
    path = products(options.folder, options.megabytes)
    weights = path.with_name("weights.bin").stat().st_size
    yield "| recipe | weights | peak | times | seconds | exit |"
    yield "|---|---|---|---|---|---|"
    for name, data in (("without data", {}), ("with data", samples(options.folder, 64, (WIDTH,)))):
        recipe = written_recipe(options.folder / f"dynamic {name}.json", path, "quantize.dynamic", {}, data)
        yield row(name, weights, watched(["apply", str(recipe)], options.folder))


def large(options: argparse.Namespace) -> Iterator[str]:
    """A model that is no protobuf message: inspected, its weights in 4 bits, exported, timed."""
    path = products(options.folder, options.large)
    weights = path.with_name("weights.bin").stat().st_size
    recipe = written_recipe(options.folder / "large.json", path, "quantize.weights", {"bits": 4}, {})
    yield "| command | weights | peak | times | seconds | exit |"
    yield "|---|---|---|---|---|---|"
    for arguments in (
        ["inspect", str(path)],
        ["apply", str(recipe), "--measure", "quick"],
        ["export", str(path), "--to", "onnxruntime", "--output", str(options.folder / "exported")],
        ["bench", str(path), "--seconds", "0.5"],
    ):
        yield row(arguments[0], weights, watched(arguments, options.folder))


def calibration(options: argparse.Namespace) -> Iterator[str]:
    """quantize.static on a convolutional network with 100 and with 1,000 samples."""
    path = convolutions(options.folder)
    peaks = []
    yield "| calibration samples | peak | seconds | exit |"
    yield "|---|---|---|---|"
    for count in (100, 1000):
        data = samples(options.folder, count + 128, (3, 64, 64)) | {"calibration": count, "validation": 64}
        recipe = written_recipe(options.folder / f"calibration {count}.json", path, "quantize.static", {}, data)
        found = watched(["apply", str(recipe), "--measure", "quick"], options.folder)
        peaks.append(found.peak_bytes)
        yield f"| {count} | {found.peak_bytes / 1e6:,.0f} MB | {found.seconds:.0f} | {found.returncode} |"
    yield f"1,000 samples peak at {peaks[1] / peaks[0]:.2f} times what 100 do"


def nodes(options: argparse.Namespace) -> Iterator[str]:
    """Whole processes in turn: `inspect`, and loading the file and inferring its shapes."""
    yield "| graph | nodes | load and infer shapes | inspect | ratio |"
    yield "|---|---|---|---|---|"
    for name, path in (("layers", many_layers(options.folder)), ("computed shapes", many_shapes(options.folder))):
        code = f"import onnx; onnx.shape_inference.infer_shapes(onnx.load({str(path)!r}))"
        taken: dict[str, list[float]] = {"plain": [], "inspect": []}
        for _ in range(options.rounds):
            for key, command in (
                ("plain", [sys.executable, "-c", code]),
                ("inspect", [*COMMAND, "inspect", str(path)]),
            ):
                started = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                taken[key].append(time.perf_counter() - started)
        ratio = statistics.median(
            after / before for before, after in zip(taken["plain"], taken["inspect"], strict=True)
        )
        plain, inspect = (statistics.median(times) for times in taken.values())
        count = len(onnx.load(path).graph.node)
        yield f"| {name} | {count:,} | {plain:.2f} s | {inspect:.2f} s | {ratio:.2f} |"


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "dynamic": dynamic,
    "large": large,
    "calibration": calibration,
    "nodes": nodes,
}


def row(name: str, weights: int, found: Run) -> str:
    line = (
        f"| {name} | {weights / 1e6:,.0f} MB | {found.peak_bytes / 1e6:,.0f} MB | {found.peak_bytes / weights:.2f} "
        f"| {found.seconds:.0f} | {found.returncode} |"
    )
    return line if found.returncode in (0, 1) else f"{line}\n{found.said}"


def watched(
    arguments: list[str],
    folder: Path,
    seen: Callable[[int], None] | None = None,
    of_first: Callable[[int, int], None] | None = None,
) -> Run:
    """Run the command line to its end and watch it. seen: told each reading. of_first: that of the command's first process, and how much of it no file
    backs; the rest was written to mapped files and is on its way to the disk."""
    started, peak, own, parts = time.perf_counter(), 0, 0, ()
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen([*COMMAND, *arguments], stdout=said, stderr=subprocess.STDOUT, cwd=folder)
        while process.poll() is None:
            began = time.perf_counter()
            read = tuple(held(process.pid))
            now = tuple(taken for taken, _ in read)
            reading = time.perf_counter() - began
            if seen is not None:
                seen(sum(now))
            own = max(own, *now[:1], 0)
            if of_first is not None and read:
                of_first(*read[0])
            if sum(now) > peak:
                peak, parts = sum(now), now
            time.sleep(
                max(EVERY_SECONDS, 20 * reading)
            )  # of large processes it takes long, and they stand still meanwhile
        said.seek(0)
        tail = "".join(said.readlines()[-12:])
    return Run(process.returncode, time.perf_counter() - started, peak, own, parts, tail)


def held(root: int) -> Iterator[tuple[int, int]]:
    """Of each process of the tree, bytes that no file backs or that were written since, and those that no file backs."""
    with suppress(psutil.Error):
        parent = psutil.Process(root)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(OSError):
                text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
                anonymous = kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"]
                yield 1024 * max(anonymous, kilobytes["Pss_Dirty"]), 1024 * anonymous


def written_recipe(path: Path, model: Path, use: str, params: dict[str, object], data: dict[str, object]) -> Path:
    """A recipe of one stage; every run of it computes everything."""
    import json

    recipe: dict[str, object] = {
        "recipe": "compressctl/v1",
        "name": path.stem.replace(" ", "-"),
        "task": "embedding",
        "model": {"source": "onnx", "path": str(model.resolve())},
        "target": {"backend": "onnxruntime", "threads": 1, "batch": 1},
        "stages": [{"id": "stage", "use": use, **params}],
    }
    path.write_text(json.dumps(recipe | ({"data": data} if data else {})))
    return path


def samples(folder: Path, count: int, shape: tuple[int, ...]) -> dict[str, object]:
    """Random samples in a file, as a recipe names them."""
    path = folder / f"samples-{count}-{'x'.join(map(str, shape))}.npz"
    if not path.exists():
        np.savez(path, x=np.random.default_rng(0).standard_normal((count, *shape), np.float32))
    return {"source": "npz", "path": str(path.resolve()), "inputs": ["x"], "validation": 16, "test": 16}


def products(folder: Path, megabytes: int) -> Path:
    """Blocks of two products with a bias, a Relu and a sum around them, as in a transformer; weights beside the file."""
    home = folder / f"products-{megabytes}"
    path = home / "model.onnx"
    if path.exists():
        return path
    home.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    blocks = max(1, round(megabytes * 1e6 / (2 * 4 * 4 * WIDTH**2)))
    made, stored, source, offset = [], [], "x", 0
    with (home / "weights.bin").open("wb") as file:
        for block in range(blocks):
            names = {
                part: f"block{block}.{part}" for part in ("up", "down", "bias", "wide", "added", "bent", "back", "out")
            }
            for part, shape in (("up", (WIDTH, 4 * WIDTH)), ("down", (4 * WIDTH, WIDTH)), ("bias", (4 * WIDTH,))):
                values = random.standard_normal(shape, np.float32) * np.float32(0.5 / shape[0] ** 0.5)
                tensor = TensorProto(name=names[part], data_type=TensorProto.FLOAT, dims=shape)
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", "weights.bin"), ("offset", offset), ("length", values.nbytes)):
                    tensor.external_data.add(key=key, value=str(value))
                offset += file.write(values.tobytes())
                offset += file.write(bytes(-offset % 4096))
                stored.append(tensor)
            made += [
                helper.make_node("MatMul", [source, names["up"]], [names["wide"]], names["wide"]),
                helper.make_node("Add", [names["wide"], names["bias"]], [names["added"]], names["added"]),
                helper.make_node("Relu", [names["added"]], [names["bent"]], names["bent"]),
                helper.make_node("MatMul", [names["bent"], names["down"]], [names["back"]], names["back"]),
                helper.make_node("Add", [source, names["back"]], [names["out"]], names["out"]),
            ]
            source = names["out"]
    write_graph(path, made, stored, ("x", ["batch", WIDTH]), (source, ["batch", WIDTH]))
    return path


def convolutions(folder: Path) -> Path:
    """Nine convolutions with strides, small enough that activations are what calibration works on."""
    path = folder / "convolutions.onnx"
    if path.exists():
        return path
    random = np.random.default_rng(0)
    made, stored, source, channels = [], [], "x", 3
    for layer, (width, stride) in enumerate(
        [(32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (96, 2), (96, 1), (128, 2), (128, 1)]
    ):
        weight = random.standard_normal((width, channels, 3, 3), np.float32) * np.float32((2 / (9 * channels)) ** 0.5)
        stored.append(onnx.numpy_helper.from_array(weight, f"weight{layer}"))
        made.append(
            helper.make_node(
                "Conv", [source, f"weight{layer}"], [f"conv{layer}"], f"conv{layer}", pads=[1] * 4, strides=[stride] * 2
            )
        )
        made.append(helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"], f"relu{layer}"))
        source, channels = f"relu{layer}", width
    made.append(helper.make_node("GlobalAveragePool", [source], ["pooled"], "pool"))
    made.append(helper.make_node("Flatten", ["pooled"], ["y"], "flatten"))
    write_graph(path, made, stored, ("x", ["batch", 3, 64, 64]), ("y", ["batch", channels]))
    return path


def many_layers(folder: Path) -> Path:
    """A chain of small products, sums and activations, each with constants of its own."""
    path = folder / "layers.onnx"
    if path.exists():
        return path
    random = np.random.default_rng(0)
    made, stored, source = [], [], "x"
    for layer in range(NODES // 4):
        for part, shape in (("weight", (16, 16)), ("bias", (16,)), ("scale", (16,))):
            stored.append(onnx.numpy_helper.from_array(random.standard_normal(shape, np.float32) / 4, f"{part}{layer}"))
        for op, other in (("MatMul", "weight"), ("Add", "bias"), ("Relu", None), ("Mul", "scale")):
            output = f"{op}{layer}"
            made.append(helper.make_node(op, [source, *([f"{other}{layer}"] if other else [])], [output], output))
            source = output
    write_graph(path, made, stored, ("x", ["batch", 16]), (source, ["batch", 16]))
    return path


def many_shapes(folder: Path) -> Path:
    """What exporters write for a view: the shape is taken, one size of it picked, and put before another."""
    path = folder / "shapes.onnx"
    if path.exists():
        return path
    stored = [
        onnx.numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("first", [0]), ("width", [16]), ("halves", [2, 8]), ("zero", 0))
    ]
    made, source = [], "x"
    for layer in range(NODES // 8):
        names = [f"{part}{layer}" for part in ("shape", "size", "sizes", "parts", "split", "again", "joined", "bent")]
        shape, size, sizes, parts, split, again, joined, bent = names
        made += [
            helper.make_node("Shape", [source], [shape], shape),
            helper.make_node("Gather", [shape, "zero"], [size], size),
            helper.make_node("Unsqueeze", [size, "first"], [sizes], sizes),
            helper.make_node("Concat", [sizes, "halves"], [parts], parts, axis=0),
            helper.make_node("Reshape", [source, parts], [split], split),
            helper.make_node("Concat", [sizes, "width"], [again], again, axis=0),
            helper.make_node("Reshape", [split, again], [joined], joined),
            helper.make_node("Relu", [joined], [bent], bent),
        ]
        source = bent
    write_graph(path, made, stored, ("x", ["batch", 16]), (source, ["batch", 16]))
    return path


def write_graph(
    path: Path,
    made: list[onnx.NodeProto],
    stored: list[onnx.TensorProto],
    given: tuple[str, list[int | str]],
    result: tuple[str, list[int | str]],
) -> None:
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (given, result)
    )
    graph = helper.make_graph(made, "generated", inputs, outputs, stored)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


if __name__ == "__main__":
    main()
