"""`compressctl auto` on files that strangers published, with nothing but a folder of recorded calls each.

    python benchmarks/search_strangers.py [--models NAME ...] [--time 10m] [--again]

Of the 40 calls that third_party_onnx.py records for each model, 24 are given to `auto --drop 1`; the file that it hands over is held
against the original by published/independent.py on the other 16. A file is a gain when it is at most half as large or at least 1.5 times as
fast, and every output has a cosine, and every decision an agreement, of 0.99 or more. 16-bit floats alone do not count. The same is asked
of ONNX Runtime's tools and NNCF, calibrated with the same 24 calls, of which the best file stands beside ours.
Results are kept one by one under results/search_strangers/. Exits with 1 where fewer than four of six are gains, or where a peer's file
is one and ours is not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from published import peers
from published.inputs import COUNT, dealt, record
from published.packages import BUILD, MODELS, Published, fetch, model_path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "search_strangers"
CHOSEN = ("nsfw", "orientation", "magika", "khmer", "rapidocr-rec", "silero-16k")
"""Of different kinds: a large and a small classifier of images, one of bytes, a tagger of text, a recogniser, a recurrent net with states."""
_LEAST, _SMALLER, _FASTER = 0.99, 2.0, 1.5
_ENOUGH = 4


@dataclass(frozen=True)
class Seen:
    """What an independent reader finds of one file. agreement: 0 to 1, None where no output decides."""

    smaller: float
    ratio: float
    low: float
    high: float
    cosine: float
    agreement: float | None
    is_float16: bool

    @property
    def keeps(self) -> bool:
        return self.cosine >= _LEAST and (self.agreement is None or self.agreement >= _LEAST)

    @property
    def is_gain(self) -> bool:
        return self.keeps and not self.is_float16 and (self.smaller >= _SMALLER or self.ratio >= _FASTER)

    @property
    def words(self) -> str:
        decided = "" if self.agreement is None else f", {self.agreement:.2%} equal decisions"
        return f"{self.smaller:.2f}x smaller, {self.ratio:.2f}x ({self.low:.2f} to {self.high:.2f}), cosine {self.cosine:.4f}{decided}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(CHOSEN))
    parser.add_argument("--time", default="10m", help="of each search")
    parser.add_argument("--again", action="store_true", help="search what has a result already")
    asked = parser.parse_args()
    fetch()
    of = {model.name: model for model in MODELS}
    results = [_once(of[name], asked.time, asked.again) for name in asked.models]
    return _told(results, asked.time)


def _once(model: Published, time_: str, again: bool) -> dict[str, Any]:
    path = RESULTS / f"{model.name}.json"
    if path.is_file() and not again:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    inputs = record(model)
    others, judged_by = _given()
    folder = _folder(model, inputs, others)
    result = {"model": model.name, **_ours(model, folder, inputs, judged_by, time_), "peers": {}}
    for technique, tools in peers.PEERS.items():
        for tool in tools:
            made = BUILD / "search" / model.name / "peers" / f"{technique}-{tool}.onnx"
            code, _, _ = peers.attempt(f"{technique}/{tool}", model_path(model), inputs, others, made)
            if code == 0:
                seen = _judged(model, made, inputs, judged_by, is_float16=technique == "float16")
                result["peers"][f"{tool} {technique}"] = seen and vars(seen)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
    return result


def _given() -> tuple[list[int], list[int]]:
    """Positions of the calls that a tool may see, and of those that judge."""
    test = dealt()[1]
    return [position for position in range(COUNT) if position not in test], test


def _folder(model: Published, inputs: Path, positions: list[int]) -> Path:
    folder = BUILD / "search" / model.name / "recorded"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = sorted(inputs.glob("*.npz"))
    for position in positions:
        shutil.copy(paths[position], folder)
    return folder


def _ours(model: Published, folder: Path, inputs: Path, judged_by: list[int], time_: str) -> dict[str, Any]:
    output, began = folder.parent / "auto", time.monotonic()
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "compressctl", "auto", str(model_path(model)), "--data", str(folder)]
    command += ["--drop", "1", "--time", time_, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (output / "search.json").is_file():
        return {"code": done.returncode, "said": done.stderr.strip().splitlines()[-1], "ours": None, "chosen": None}
    search = json.loads((output / "search.json").read_text())
    found = {
        "code": done.returncode,
        "seconds": time.monotonic() - began,
        "tried": len(search["points"]),
        "chosen": search["chosen"],
        "said": " ".join(search["summary"]),
    }
    files = [name for name in search["files"] if name.endswith(".onnx")]
    if not files:
        return {**found, "ours": None}
    seen = _judged(model, output / files[0], inputs, judged_by, is_float16=search["chosen"] == "float16")
    return {**found, "ours": seen and vars(seen)}


def _judged(model: Published, file: Path, inputs: Path, judged_by: list[int], *, is_float16: bool) -> Seen | None:
    """None where it cannot be run."""
    command = [sys.executable, str(HERE / "published/independent.py"), str(model_path(model)), str(file), str(inputs)]
    command += ["--samples", ",".join(map(str, judged_by)), "--decisions", json.dumps(model.decisions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    found = json.loads(done.stdout)
    decided = [output["agreement"] / 100 for output in found["outputs"].values() if "agreement" in output]
    return Seen(
        smaller=found["bytes"][0] / found["bytes"][1],
        ratio=found["ratio"],
        low=found["low"],
        high=found["high"],
        cosine=min(output["cosine"] for output in found["outputs"].values()),
        agreement=min(decided, default=None),
        is_float16=is_float16,
    )


def _told(results: list[dict[str, Any]], time_: str) -> int:
    gains, beaten = 0, []
    print(
        "| file | chosen of | handed over, seen by independent.py | a gain | best gain of ONNX Runtime's tools and NNCF |"
    )
    print("|---|---|---|---|---|")
    for result in results:
        ours = Seen(**result["ours"]) if result["ours"] else None
        others = {name: Seen(**seen) for name, seen in result["peers"].items() if seen}
        best = max(
            ((name, seen) for name, seen in others.items() if seen.is_gain),
            key=lambda entry: entry[1].smaller * entry[1].ratio,
            default=None,
        )
        is_gain = ours is not None and ours.is_gain
        gains += is_gain
        if best is not None and not is_gain:
            beaten.append(result["model"])
        words = ours.words if ours else f"the original stays: {result['said']}"
        peer = "none" if best is None else f"{best[0]}: {best[1].words}"
        print(
            f"| {result['model']} | {result['chosen']} of {result.get('tried', 0)} | {words} | {'yes' if is_gain else 'no'} | {peer} |"
        )
    print(
        f"\n**{gains} of {len(results)} are gains; a peer has one where we have none: {', '.join(beaten) or 'nowhere'}.**\n"
    )
    spent = sum(result.get("seconds", 0) for result in results)
    print(
        f"`compressctl auto MODEL --data FOLDER --drop 1 --time {time_}`; {spent / 60:.0f} minutes for all. 16 calls judge that no tool saw."
    )
    return int(gains < min(_ENOUGH, len(results)) or bool(beaten))


if __name__ == "__main__":
    sys.exit(main())
