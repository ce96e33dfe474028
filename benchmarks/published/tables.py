"""The results as Markdown: totals, one row for each model and technique, and the refusals with their reasons."""

from __future__ import annotations

from collections import Counter
from typing import Any

from published.ours import TECHNIQUES
from published.outcome import EXACT_DB, RULE
from published.packages import MODELS

Result = dict[str, Any]


def render(results: list[Result]) -> str:
    """Everything, ready to be pasted into a document."""
    return "\n\n".join([RULE, _totals(results), _held_against(results), _rows(results), _reasons(results)]) + "\n"


def _totals(results: list[Result]) -> str:
    """Outcomes of ours by technique, and the share of good ones among those that count; then what peers alone manage."""
    words = ("good", "undone", "slower", "ruined", "no gain", "refused", "failed", "broken", "traceback", "nothing")
    lines = ["| technique | " + " | ".join(words) + " | good of what counts |", "|---" * (len(words) + 2) + "|"]
    own = [result for result in results if result["tool"] == "ours"]
    for name in [technique.name for technique in TECHNIQUES] + ["all"]:
        counted = Counter(result["outcome"] for result in own if name in ("all", result["technique"]))
        total = sum(counted.values()) - counted["nothing"]
        good = counted["good"] + counted["undone"]
        share = f"{good} of {total}, {100 * good / total:.0f} %" if total else "-"
        lines.append(f"| {name} | " + " | ".join(str(counted[word]) for word in words) + f" | {share} |")
    for peer in sorted({result["tool"] for result in results} - {"ours"}):
        counted = Counter(result["outcome"] for result in results if result["tool"] == peer)
        total = sum(counted.values()) - counted["nothing"]
        share = f"{counted['good']} of {total}, {100 * counted['good'] / max(1, total):.0f} %"
        lines.append(f"| all that {peer} has | " + " | ".join(str(counted[word]) for word in words) + f" | {share} |")
    return "\n".join(lines)


def _held_against(results: list[Result]) -> str:
    """How often the report of a run and the independent script agree on each output's decibels and on the ratio."""
    outputs, far, intervals, outside = 0, [], 0, []
    for result in results:
        reported, compared = result.get("reported") or {}, result["compared"]
        if result["tool"] != "ours" or result["technique"] == "pack" or not compared or result["code"] not in (0, 1):
            continue
        pair = f"{result['model']} {result['technique']}"
        for part in (reported.get("fidelity") or {}).get("outputs", []):
            own = compared["outputs"][part["name"]]["sqnr_db"]
            said = EXACT_DB if part["identical"] else part["sqnr_db"]
            outputs += 1
            # Above 60 dB the order of float32 sums shows.
            if said is None or abs(said - own) > (0.01 if own < 60 else 1.0):
                far.append(f"{pair} {part['name']}: {said} against {own:.2f} dB")
        if reported.get("speed"):
            intervals += 1
            speed = reported["speed"]
            if not speed["low"] <= compared["ratio"] <= speed["high"]:
                outside.append(f"{pair}: {compared['ratio']:.2f}, reported {speed['low']:.2f} to {speed['high']:.2f}")
    inside = intervals - len(outside)
    lines = [
        f"The independent script finds the reported decibels of {outputs - len(far)} of {outputs} outputs, and {inside} of "
        f"{intervals} of its ratios lie in the reported intervals ({100 * inside / max(1, intervals):.0f} %)."
    ]
    return "\n".join([*lines, *(f"- {text}" for text in far + outside)])


def _rows(results: list[Result]) -> str:
    by_pair = {(result["model"], result["technique"], result["tool"]): result for result in results}
    tools = ["ours", *sorted({result["tool"] for result in results} - {"ours"})]
    lines = ["| model, at | technique | " + " | ".join(tools) + " |", "|---" * (len(tools) + 2) + "|"]
    for model in MODELS:
        for technique in TECHNIQUES:
            found = [by_pair.get((model.name, technique.name, tool)) for tool in tools]
            if any(found):
                shape = next((_shape(result) for result in found if result and result["compared"]), "")
                cells = " | ".join(_cell(result) for result in found)
                lines.append(f"| {model.name}{shape} | {technique.name} | {cells} |")
    return "\n".join(lines)


def _shape(result: Result) -> str:
    shapes = result["compared"]["shape"].values()
    return ", " + " ".join("x".join(str(size) for size in shape) or "scalar" for shape in shapes)


def _cell(result: Result | None) -> str:
    """The outcome; the worst output's decibels, cosine and agreement; smaller by; faster by with its interval."""
    if result is None:
        return ""
    compared = result["compared"]
    if compared is None or result["outcome"] == "nothing":
        return str(result["outcome"])
    outputs = compared["outputs"].values()
    worst = min(outputs, key=lambda output: output["sqnr_db"])
    decibels = "exact" if worst["sqnr_db"] >= 200 else f"{worst['sqnr_db']:.1f} dB, {worst['cosine']:.4f}"
    agreements = [output["agreement"] for output in outputs if "agreement" in output]
    agreement = f", {min(agreements):.5g} %" if agreements else ""
    size = compared["bytes"][0] / compared["bytes"][1]
    speed = f"{compared['ratio']:.2f}x ({compared['low']:.2f} to {compared['high']:.2f})"
    if result["technique"] == "pack":
        packed = (result.get("reported") or {}).get("bytes") or compared["bytes"][1]
        return f"{result['outcome']}: {decibels}; {compared['bytes'][0] / packed:.2f}x smaller"
    return f"{result['outcome']}: {decibels}{agreement}; {size:.2f}x smaller, {speed}"


def _reasons(results: list[Result]) -> str:
    """What was said where no good file came out of ours, and which peers made one there."""
    good = {(result["model"], result["technique"]): [] for result in results}
    for result in results:
        if result["tool"] != "ours" and result["outcome"] == "good":
            good[result["model"], result["technique"]].append(result["tool"])
    lines = ["| model | technique | outcome | what was said | a peer's good file |", "|---|---|---|---|---|"]
    for result in results:
        if result["tool"] == "ours" and result["outcome"] not in ("good", "nothing"):
            said = (result["undone"] or result["said"]).replace("|", "/").replace("\n", " ")[:300]
            peers = ", ".join(good[result["model"], result["technique"]])
            lines.append(f"| {result['model']} | {result['technique']} | {result['outcome']} | {said} | {peers} |")
    return "\n".join(lines)
