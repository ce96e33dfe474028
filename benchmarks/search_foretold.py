"""What a search's tables foretell of files, beside what those files then are: sizes, times and losses.

    python benchmarks/search_foretold.py [efficientnet resnet20 digits] [--runtime onnxruntime openvino] [--time 10m] [--files 18] [--folder FOLDER]

Nothing is trained. Layers are measured for --time at most, then the files with one option everywhere, which say what distances come to. The program
then solves for the least loss within a ladder of sizes, and within one of speeds, in two rounds, as a search does: what came of the first three files
corrects what is foretold of the others. What is foretold of a round's files is written to foretold.json before the first of them is made. EfficientNet-Lite0 as search_efficientnet.py (COMPRESSCTL_IMAGENET; 200 images calibrate, the other 800 judge), ResNet-20
as search_resnet20.py (COMPRESSCTL_DATA; 8,000 of the test images judge), digits without any data. Exits with 1 where the median error of time is over
10 %, the rank correlation of losses under 0.9, or fewer than 15 files are left.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from search_efficientnet_peers import MODEL

from compressctl.cli.limits import time_limit_of
from compressctl.core.machine import this_machine
from compressctl.measure.environment import environment
from compressctl.search.document import Figures, Point
from compressctl.search.evaluate import Bench, evaluate
from compressctl.search.facts import read_facts
from compressctl.search.journal import Journal
from compressctl.search.kept_tables import tables_of
from compressctl.search.planned import WHOLE, Planner, seen_of, whole_files
from compressctl.search.program import Choice, Foreseen, Program, Scales, Seen
from compressctl.search.request import Goal
from compressctl.search.space import Candidate, untrained
from compressctl.search.subject import Asked, Subject, subject_of
from compressctl.store.cache_place import stage_cache

ROOT = Path(__file__).parent.parent
NETWORKS = ("efficientnet", "resnet20", "digits")
_FIRST = 3
_DROP = 1.0
_MOST_ERROR, _LEAST_RANKS, _LEAST_FILES = 0.10, 0.9, 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*", default=["digits"], metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--runtime", nargs="+", choices=("onnxruntime", "openvino"), default=["onnxruntime"])
    parser.add_argument("--time", default="10m", help="that layers may be measured for")
    parser.add_argument("--files", type=int, default=18)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "search" / "foretold")
    asked = parser.parse_args()
    if unknown := set(asked.network) - set(NETWORKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(NETWORKS)}")
    seconds = time_limit_of(asked.time, "--time")
    kept = [
        _network(network, runtime, seconds, asked.files, asked.folder.resolve() / f"{network}-{runtime}")
        for network in asked.network
        for runtime in asked.runtime
    ]
    return int(not all(kept))


def _network(network: str, runtime: str, seconds: float, count: int, folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    bench = _bench(_subject(network, runtime, folder), folder)
    candidates = {one.name: one for one in untrained(bench.facts, Goal(drop=_DROP)) if one.name in WHOLE}
    whole = {name: _made(one, bench) for name, one in candidates.items()}
    program = Program(tables := tables_of(bench, seconds, (), _say, is_timed=True))
    seen = [
        _seen(choice, point.figures)
        for name, choice in whole_files(tables, program).items()
        if (point := whole.get(name)) is not None and point.figures is not None
    ]
    planner = Planner(tables, Goal(drop=_DROP), None, "balanced")
    told: dict[str, Foreseen] = {}
    made: dict[str, Figures] = {}
    for files in (_FIRST, count - _FIRST):
        scales = program.fitted(seen, _DROP)
        choices = _ladder(program, scales, files, [one.choice for one in seen], f"round {1 + bool(told)}")
        told |= {name: program.foreseen(choice, scales) for name, choice in choices.items()}
        (folder / "foretold.json").write_text(json.dumps({name: vars(one) for name, one in told.items()}, indent=1))
        for name, choice in choices.items():
            point = _made(planner.candidate(name, choice), bench)
            if point is not None and point.figures is not None:
                made[name] = point.figures
                seen.append(_seen(choice, point.figures))
    return _told(network, runtime, bench, [(name, told[name], found) for name, found in made.items()])


def _seen(choice: Choice, figures: Figures) -> Seen:
    return seen_of(choice, figures, figures.speed.ratio if figures.speed else None)


def _subject(network: str, runtime: str, folder: Path) -> Subject:
    if network == "digits":
        return subject_of(Asked("builtin:digits-resnet", backend=runtime), folder)
    if network == "resnet20":
        judged = ("data.validation_from=test", "data.validation=8000")
        return subject_of(Asked(str(ROOT / "recipes" / "prune-resnet20.yaml"), backend=runtime, sets=judged), folder)
    data = {
        "source": "image_folder", "path": os.environ["COMPRESSCTL_IMAGENET"], "labels": "prefix", "resize": 256, "center_crop": 224,
        "interpolation": "bicubic", "scale": 1, "mean": [127], "std": [128], "calibration": 200, "validation": 790, "test": 10,
    }  # fmt: skip
    content = {
        "recipe": "compressctl/v1", "name": "efficientnet-lite0", "task": "classification", "model": {"source": "onnx", "path": str(MODEL)},
        "data": data, "target": {"threads": 1, "batch_size": 1}, "stages": [],
    }  # fmt: skip
    (folder / "network.yaml").write_text(json.dumps(content, indent=1))
    return subject_of(Asked(str(folder / "network.yaml"), backend=runtime), folder)


def _bench(subject: Subject, folder: Path) -> Bench:
    cache = stage_cache()
    return Bench(subject, read_facts(subject.recipe(), cache, ()), folder, cache, environment())


def _made(one: Candidate, bench: Bench) -> Point | None:
    """From the journal, or made and measured now; None where it was interrupted."""
    recipe = bench.recipe(one)
    key, journal = bench.key(recipe), Journal(bench.folder)
    if (known := journal.read(key)) is not None:
        return known
    _say(f"{one.name}: {one.words}")
    point = evaluate(one, recipe, key, bench, ()).point
    if point is not None:
        journal.write(point)
        if point.figures is None:
            _say(f"{one.name}: {point.reason}")
    return point


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _ladder(program: Program, scales: Scales, count: int, known: list[Choice], name: str) -> dict[str, Choice]:
    """Choices of many sizes and speeds, each with the least loss that is foretold within it, none of them known."""
    least = program.solve(scales, "size", most_loss=np.inf)
    assert least is not None
    small, large = (program.foreseen(choice, scales).total_bytes for choice in (least, program.all_at("int8")))
    found: dict[str, Choice] = {}
    for choice in _solved(program, scales, np.geomspace(1.02 * small, large, count).tolist()):
        if len(found) < count and not any(_same(choice, other) for other in (*known, *found.values())):
            found[f"{name}, {len(found) + 1}"] = choice
    return found


def _solved(program: Program, scales: Scales, sizes: list[float]) -> Iterator[Choice]:
    """As many again by speed as a third of the sizes."""
    fastest = program.times_faster(program.all_at("int8"), scales.time)
    speeds = [] if fastest is None else np.linspace(1.0, fastest, len(sizes) // 3 + 2)[1:-1]
    for speed in speeds:
        choice = program.solve(scales, "quality", least_faster=float(speed))
        if choice is not None:
            yield choice
    for size in sizes:
        choice = program.solve(scales, "quality", most_bytes=size)
        if choice is not None:
            yield choice


def _same(one: Choice, other: Choice) -> bool:
    return [option.name for option in one.values()] == [option.name for option in other.values()]


def _told(network: str, runtime: str, bench: Bench, files: list[tuple[str, Foreseen, Figures]]) -> bool:
    machine = this_machine()
    samples = bench.facts.samples["validation"]
    print(
        f"\n{network}, {runtime}: {machine.cpu}, VNNI {'yes' if machine.has_vnni else 'no'}; {samples:,} samples judge\n"
    )
    print(
        "| file | size, foretold | speed, foretold | points lost, foretold | distance of outputs (SQNR) |\n|---|---|---|---|---|"
    )
    for name, told, found in sorted(files, key=lambda one: one[2].total_bytes):
        speed = "not timed" if found.speed is None else f"{found.speed.ratio:.2f}x"
        expected = "" if told.times_faster is None else f"{told.times_faster:.2f}x"
        loss, noise = (
            ("", "") if found.loss is None else (f"{found.loss.value:.2f}", f"{found.loss.sqnr_db or 0:.1f} dB")
        )
        print(
            f"| {name} | {found.total_bytes / 1e6:.3f} MB, {told.total_bytes / 1e6:.3f} | {speed}, {expected} | {loss}, {told.loss:.2f} | {noise} |"
        )
    return _judged(files)


def _judged(files: list[tuple[str, Foreseen, Figures]]) -> bool:
    times = [
        abs(found.speed.ratio / told.times_faster - 1)
        for _, told, found in files
        if found.speed is not None and told.times_faster is not None
    ]
    sizes = [abs(found.total_bytes / told.total_bytes - 1) for _, told, found in files]
    lost: list[Any] = [(told.loss, found.loss) for _, told, found in files if found.loss is not None]
    if len(lost) < 3 or not times:
        print(f"\n{len(files)} files: too few to tell")
        return False
    foretold = [told for told, _ in lost]
    ranks = _rank_correlation(foretold, [found.value for _, found in lost])
    far = [(told, -found.sqnr_db) for told, found in lost if found.sqnr_db is not None]
    by_outputs = _rank_correlation(*map(list, zip(*far, strict=True))) if len(far) > 2 else float("nan")
    error = float(np.median(times))
    print(
        f"\n{len(files)} files foretold before they were made: median error of time {error:.1%}, of size {np.median(sizes):.1%}; rank correlation of "
        f"losses {ranks:.2f}, with the distance of outputs {by_outputs:.2f}",
        flush=True,
    )
    return len(files) >= _LEAST_FILES and error <= _MOST_ERROR and ranks >= _LEAST_RANKS


def _rank_correlation(one: list[float], other: list[float]) -> float:
    """Spearman's, equal values with the mean of their ranks."""
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


if __name__ == "__main__":
    sys.exit(main())
