"""What a teacher is worth: a small student trained with it and without it, the same way otherwise.

python benchmarks/distillation.py recipes/distill-resnet20.yaml [--set ...] [--seeds 0 1 2] [--json FILE]

The recipe's distillation stage is run once per seed. Beside it the same student, from the same first weights, is trained
on the labels alone: same epochs, steps, augmentation and choice of the epoch on the validation split. Each is exported
and scored on the test split through ONNX Runtime. The interval is Student's, over the paired differences of the seeds.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.events import Event, Events
from compressctl.core.model import Form, Model
from compressctl.core.source import metrics
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.graph.cost import count_macs
from compressctl.graph.lower import lower
from compressctl.measure.score import predict, score
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset, load_model
from compressctl.techniques.distill import features, logits
from compressctl.techniques.finetune.finetune import apply as finetune
from compressctl.techniques.finetune.params import FinetuneParams
from compressctl.training.in_memory import HeldDataset
from compressctl.training.params import TrainingParams
from compressctl.training.supervision.factory import make_network

WAYS = {"distill.logits": logits.apply, "distill.features": features.apply}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = _benchmark(asked)
    print(_table(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _benchmark(asked: argparse.Namespace) -> dict[str, Any]:
    recipe = load(asked.recipe, asked.sets, [])
    stage = next(stage for stage in recipe.stages if stage.use in WAYS)
    assert recipe.data is not None, "the recipe names no data"
    teacher = load_model(recipe.model, recipe.base, recipe.seed)
    data = HeldDataset(load_dataset(recipe.data, recipe.base, recipe.seed))
    params: Any = stage.params
    shared = FinetuneParams(**{name: getattr(params, name) for name in TrainingParams.model_fields})
    wanted = params.student
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run = RunContext(
            seed=0,
            events=Events(_tell),
            folder=Path(folder),
            target=Target("onnxruntime"),
            data=data,
            metric=metrics.get("accuracy"),
            base=recipe.base,
            original=lambda: load_model(recipe.model, recipe.base, recipe.seed),
        )
        for seed in asked.seeds:
            seeded = replace(run, seed=seed)
            started = time.perf_counter()
            taught = WAYS[stage.use](teacher, params, seeded).model
            between = time.perf_counter()
            alone = make_network(wanted.factory, wanted.args, wanted.weights, teacher.signature, seeded, what="student")
            alone = finetune(alone, shared, seeded).model
            rows.append(
                {
                    "seed": seed,
                    "with": _score(taught, data, Path(folder)),
                    "without": _score(alone, data, Path(folder)),
                    "seconds_with": between - started,
                    "seconds_without": time.perf_counter() - between,
                }
            )
            print(f"seed {seed}: {rows[-1]['with']:.2f} with, {rows[-1]['without']:.2f} without", flush=True)
        macs = [_macs(model) for model in (teacher, taught)]
        return {
            "technique": stage.use,
            "epochs": params.epochs,
            "teacher": _score(teacher, data, Path(folder)),
            "teacher_macs": macs[0],
            "student_macs": macs[1],
            "rows": rows,
        }


def _tell(event: Event) -> None:
    if event.kind == "warning":
        print(f"warning: {event.fields['message']}", flush=True)


def _score(model: Model, data: Any, folder: Path) -> float:
    """Accuracy of the exported file on the test split, in percent."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        lowered = lower(model) if model.form is Form.TORCH else model
        target = Target("onnxruntime", threads=int(os.environ.get("OMP_NUM_THREADS", "0")))
        session = BACKEND.open(BACKEND.build(lowered, target, Path(place)), target)
        found = predict(session, data.split("test"), lowered.signature, 64, None)
        return score(found, metrics.get("accuracy"), data.classes, "test").value


def _macs(model: Model) -> int:
    return count_macs(lower(model).body).exact


def _table(found: dict[str, Any]) -> str:
    rows = found["rows"]
    gains = np.array([row["with"] - row["without"] for row in rows])
    lines = [
        f"{found['technique']}, {found['epochs']} epochs. Teacher: {found['teacher']:.2f} %, {found['teacher_macs'] / 1e6:.1f} M "
        f"MACs. Student: {found['student_macs'] / 1e6:.1f} M MACs "
        f"({found['student_macs'] / found['teacher_macs']:.0%} of the teacher's).",
        "",
        "| seed | with the teacher | without | gain | seconds with | without |",
        "|---|---|---|---|---|---|",
    ]
    for row, gain in zip(rows, gains, strict=True):
        lines.append(
            f"| {row['seed']} | {row['with']:.2f} % | {row['without']:.2f} % | {gain:+.2f} "
            f"| {row['seconds_with']:.0f} | {row['seconds_without']:.0f} |"
        )
    lines += ["", f"Mean gain {gains.mean():+.2f} points{_interval(gains)}."]
    return "\n".join(lines)


def _interval(gains: np.ndarray) -> str:
    if len(gains) < 2:
        return " (one seed: no interval)"
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return f" (95 % interval {gains.mean() - half:+.2f} to {gains.mean() + half:+.2f}, {len(gains)} seeds)"


if __name__ == "__main__":
    main()
