"""PP-OCR (package rapidocr-onnxruntime) in integers, judged by the text that detector, classifier and recogniser read together.

Needs `pip install rapidocr-onnxruntime jiwer`. Pages hold real sentences in six fonts, eight lines each; every second page is distorted as
by a camera: perspective, blur, noise, uneven light, low contrast, JPEG. Ranges come from other sentences in other fonts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
import onnxruntime

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
BUILD = HERE / "build" / "tasks_recognition"
sys.path[:0] = [str(HERE), str(EXAMPLES)]

import rapidocr  # noqa: E402
from published.text_pages import Page, calibration_pages, test_pages  # noqa: E402

FILES = {
    "det": "ch_PP-OCRv4_det_infer.onnx",
    "cls": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "rec": "ch_PP-OCRv4_rec_infer.onnx",
}
COMPRESSED = ("det", "rec")
"""The classifier takes 1 % of the time, and is left as it is."""

PAGES = 10
"""To calibrate with."""


@dataclass
class Called:
    """A file in ONNX Runtime on one thread. seconds: of processor time that its calls took. calls: their inputs, where they are kept."""

    path: Path
    calls: list[Mapping[str, np.ndarray]] | None = None
    seconds: float = 0.0
    session: onnxruntime.InferenceSession = field(init=False)

    def __post_init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(str(self.path), options, ["CPUExecutionProvider"])

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.calls is not None:
            self.calls.append(inputs)
        started = time.process_time()
        outputs = self.session.run(None, dict(inputs))
        self.seconds += time.process_time() - started
        return {spec.name: output for spec, output in zip(self.session.get_outputs(), outputs, strict=True)}


@dataclass
class System:
    """Three files together. seconds: processor time of each page, pictures to text."""

    name: str
    models: dict[str, Called]
    texts: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def read(self, page: Page) -> None:
        started = time.process_time()
        self.texts += rapidocr.read(self.models, {"page": np.asarray(page.image)[None]})
        self.seconds.append(time.process_time() - started)

    @property
    def size_bytes(self) -> int:
        return sum(model.path.stat().st_size for model in self.models.values())


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=26, help="of eight lines each")
    parser.add_argument("--again", action="store_true", help="compress again, where the files are there")
    options = parser.parse_args(arguments)
    files = published()
    calls = recorded(files)
    ours = compressed(files["det"].parent, options.again)
    theirs = {name: by_onnxruntime(name, files[name], calls) for name in FILES}
    systems = [
        System("float", {name: Called(path) for name, path in files.items()}),
        System("examples/rapidocr.yaml", {name: Called(ours.get(name, path)) for name, path in files.items()}),
        System("ONNX Runtime's quantizer", {name: Called(path) for name, path in theirs.items()}),
    ]
    pages = test_pages(options.pages)
    for number, page in enumerate(pages):
        for system in systems[number % 3 :] + systems[: number % 3]:
            system.read(page)
    print(table(systems, pages))


def published() -> dict[str, Path]:
    import rapidocr_onnxruntime

    folder = Path(rapidocr_onnxruntime.__file__).parent / "models"
    return {name: folder / file for name, file in FILES.items()}


def recorded(files: Mapping[str, Path]) -> dict[str, list[Mapping[str, np.ndarray]]]:
    """What the package calls each file with on the calibration pages."""
    system = System("float", {name: Called(path, []) for name, path in files.items()})
    for page in calibration_pages(PAGES):
        system.read(page)
    return {name: list(model.calls or []) for name, model in system.models.items()}


def compressed(models: Path, again: bool) -> dict[str, Path]:
    """What one recipe makes of the files, calibrated on the pages, which are drawn for it. models: the package's folder."""
    folder, pages = BUILD / "run", BUILD / "pages"
    files = {name: folder / name / "artifacts" / "onnxruntime" / "model.onnx" for name in COMPRESSED}
    if again or not all(file.is_file() for file in files.values()):
        pages.mkdir(parents=True, exist_ok=True)
        lines = []
        for number, page in enumerate(calibration_pages(PAGES)):
            page.image.save(pages / f"{number}.png")
            lines.append(json.dumps({"file": f"{number}.png", "text": "\n".join(page.lines)}))
        (pages / "pages.jsonl").write_text("\n".join(lines) + "\n")
        sets = [f"vars.models={models}", f"vars.pages={pages / 'pages.jsonl'}"]
        command = [sys.executable, "-m", "compressctl", "apply", str(EXAMPLES / "rapidocr.yaml"), "--measure", "quick"]
        command += ["--output", str(folder), *(part for text in sets for part in ("--set", text))]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return files


def by_onnxruntime(name: str, file: Path, calls: Mapping[str, Sequence[Mapping[str, np.ndarray]]]) -> Path:
    """Its static quantizer as it comes, behind its own preparation, on the first 60 % of the same calls."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [dict(call) for call in calls[name]][: len(calls[name]) * 6 // 10]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop(0) if self.left else None

    folder = BUILD / "onnxruntime"
    folder.mkdir(parents=True, exist_ok=True)
    quant_pre_process(str(file), str(folder / f"{name}-prepared.onnx"), skip_symbolic_shape=True)
    quantize_static(str(folder / f"{name}-prepared.onnx"), str(folder / f"{name}.onnx"), Reader())
    return folder / f"{name}.onnx"


def table(systems: Sequence[System], pages: Sequence[Page]) -> str:
    """A row for each system."""
    wanted = ["\n".join(page.lines) for page in pages]
    parts: dict[str, Callable[[Page], bool]] = {
        "all": lambda page: True,
        "clean": lambda page: not page.is_distorted,
        "distorted": lambda page: page.is_distorted,
    }
    head = [
        "",
        *(f"character errors, {name}" for name in parts),
        "lines as float reads them",
        "size",
        "seconds a page",
        "faster",
    ]
    rows = [head, ["---"] * len(head)]
    first = systems[0]
    for system in systems:
        errors = []
        for chosen in parts.values():
            places = [place for place, page in enumerate(pages) if chosen(page)]
            error = jiwer.cer([wanted[place] for place in places], [system.texts[place] for place in places])
            errors.append(f"{100 * error:.2f} %")
        kept = sum(
            old == new
            for before, after in zip(first.texts, system.texts, strict=True)
            for old, new in zip(before.split("\n"), after.split("\n"), strict=False)
        )
        ratio = float(np.median(np.array(first.seconds) / np.array(system.seconds)))
        of = sum(len(text.split("\n")) for text in first.texts)
        seconds = np.median(system.seconds)
        rows.append(
            [
                system.name,
                *errors,
                f"{kept} of {of}",
                f"{system.size_bytes / 1e6:.1f} MB",
                f"{seconds:.2f}",
                f"{ratio:.2f}x",
            ]
        )
    lines = sum(len(page.lines) for page in pages)
    distorted = sum(len(page.lines) for page in pages if page.is_distorted)
    told = f"{lines} lines on {len(pages)} pages, {distorted} of them distorted; processor time on one thread, detector included.\n"
    return "\n".join([told, *("| " + " | ".join(row) + " |" for row in rows)])


if __name__ == "__main__":
    main(sys.argv[1:])
