"""A language model as its serving tool runs it: rows and sentences about the bundle."""

from __future__ import annotations

from compressctl.measure.results import BackendResult, BundleResult, Generation, Speedup, TaskScore
from compressctl.measure.speed_words import headline, sentence
from compressctl.report.tables import milliseconds, score_text, size, size_change

HEAD = ("", "float", "compressed", "change")


def rows(part: BackendResult) -> list[list[str]]:
    """Float bundle against compressed bundle; empty where none was asked for."""
    found = part.bundle
    if found is None:
        return []
    before, after = found.baseline, found.compressed
    made = [
        [
            "all files",
            size(before.size_bytes),
            size(after.size_bytes),
            size_change(before.size_bytes / max(after.size_bytes, 1)),
        ]
    ]
    if before.perplexity is not None and after.perplexity is not None:
        label = f"perplexity ({after.scored_tokens:,} tokens)"
        change = f"{after.perplexity - before.perplexity:+.4f}"
        made.append([label, score_text(before.perplexity, ""), score_text(after.perplexity, ""), change])
    for old, new in zip(before.first_token, after.first_token, strict=False):
        label = f"first token after {old.prompt_tokens:,}"
        made.append([label, milliseconds(old.median_ms), milliseconds(new.median_ms), _words(new.speed)])
    if before.tokens_per_second and after.tokens_per_second:
        label = f"tokens a second ({after.decoded_tokens} in a row)"
        made.append([label, f"{before.tokens_per_second:,.1f}", f"{after.tokens_per_second:,.1f}", _words(after.speed)])
    return made + _memory(before, after) + [_of_task(score) for score in found.tasks]


def _of_task(score: TaskScore) -> list[str]:
    read = "" if score.filter == "none" else f", {score.filter}"
    shots = "" if score.shots is None else f", {score.shots} shots"
    label = f"{score.task}: {score.metric}{read} ({score.samples:,} samples{shots})"
    values = ((score.baseline, score.baseline_error), (score.compressed, score.compressed_error))
    told = [
        "no number" if value is None else f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
        for value, error in values
    ]
    if score.compressed is None or score.baseline is None:
        return [label, *told, "-"]
    return [label, *told, f"{score.compressed - score.baseline:+.4f}"]


def _memory(before: Generation, after: Generation) -> list[list[str]]:
    if before.memory is None or after.memory is None:
        return []
    old, new = before.memory, after.memory
    full = f"peak memory, {after.full_context_tokens:,} tokens kept"
    return [
        ["peak memory, loading", size(old.load_peak_bytes), size(new.load_peak_bytes), ""],
        [full, size(old.run_peak_bytes), size(new.run_peak_bytes), ""],
    ]


def _words(speed: Speedup | None) -> str:
    return "" if speed is None else sentence(speed)


def sentences(part: BackendResult) -> list[str]:
    found = part.bundle
    if found is None:
        return []
    threads = "all processors" if not found.threads else f"{found.threads} thread" + ("" if found.threads == 1 else "s")
    said = [
        f"{found.folder} opens in {found.tool} {found.version or ''}".rstrip() + f", one text at a time on {threads}."
    ]
    said += _compared(found)
    if found.prompts == "random":
        said.append("There are no data, so that random tokens were continued, and perplexity is not known.")
    if found.tasks:
        said.append(f"Tasks were scored by {found.evaluator}, in their metrics' own units; ± is one standard error.")
    if not found.compressed.first_token:
        said.append("Time to the first token, tokens a second and memory were not measured.")
    return [*said, *(f"{note}." for note in found.notes)]


def _compared(found: BundleResult) -> list[str]:
    said = []
    if found.scored_texts:
        said.append(
            f"Perplexity counts {found.compressed.scored_tokens:,} tokens of {found.scored_texts:,} texts of at most {found.longest_text:,}, "
            "each read by itself."
        )
    if found.divergence is not None and found.same_next is not None:
        said.append(
            f"Given the same text the likeliest next token is the float bundle's for {found.same_next:.2%}; KL divergence "
            f"{found.divergence:.3g} nats a token."
        )
    same = found.continuations
    if same is not None:
        said.append(
            f"Of {same.prompts} continuations of {same.tokens} tokens, each the likeliest, {same.same} are equal to the float bundle's; "
            f"{same.same_tokens:.0%} of tokens come before the first that differs."
        )
    return said


def summary(part: BackendResult) -> str:
    """For the verdict's line; empty without a bundle, or where its speed was not measured."""
    found = part.bundle
    if found is None or found.compressed.speed is None:
        return ""
    return f"bundle: decoding {headline(found.compressed.speed)}"
