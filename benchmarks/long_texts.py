"""Pairs of passages of 100 tokens or more, from articles of WikiText-2, with how near they stand: what a sentence encoder is asked on long texts.

    python benchmarks/long_texts.py build/long_texts        (COMPRESSCTL_DATA and COMPRESSCTL_MINILM as README.md says)

Writes pairs-train.tsv (the validation file's articles) and pairs-test.tsv (the test file's): score, first and second passage, by tabs. 2 where one passage follows the other, 1 where
both are of one article, 0 where they are of two. Passages are whole sentences, 100 to 200 tokens of MiniLM's.
"""

from __future__ import annotations

import os
import random
import re
import sys
from pathlib import Path

from tokenizers import Tokenizer

_LEAST, _MOST = 100, 200
_TRAINED = 1_500
"""Pairs to train on: a quarter of an hour on two cores."""

_TITLE = re.compile(r"^ = [^=].* = $")


def main(folder: Path) -> None:
    data, model = Path(os.environ["COMPRESSCTL_DATA"]), Path(os.environ["COMPRESSCTL_MINILM"])
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in (("valid", "train"), ("test", "test")):
        articles = passages(data / "text" / f"wikitext2-{part}.txt", tokenizer)
        rows = pairs(articles, random.Random(0))
        rows = rows[:_TRAINED] if part == "valid" else rows
        lines = (f"{score}\t{first}\t{second}\n" for score, first, second in rows)
        (folder / f"pairs-{name}.tsv").write_text("".join(lines))
        print(f"{name}: {len(rows)} pairs of {sum(map(len, articles))} passages of {len(articles)} articles")


def passages(path: Path, tokenizer: Tokenizer) -> list[list[str]]:
    """By article."""
    articles: list[list[str]] = []
    for line in path.read_text().splitlines():
        if _TITLE.match(line):
            articles.append([])
        elif articles and line.strip() and not line.startswith(" ="):
            articles[-1] += _cut(re.split(r"(?<= [.!?]) ", line.strip()), tokenizer)
    return [article for article in articles if len(article) > 2]


def _cut(sentences: list[str], tokenizer: Tokenizer) -> list[str]:
    found, current = [], ""
    for sentence in sentences:
        longer = f"{current} {sentence}".strip()
        count = len(tokenizer.encode(longer).ids)
        if count > _MOST:
            current = ""
            continue
        current = longer
        if count >= _LEAST:
            found.append(current)
            current = ""
    return [text.replace("\t", " ") for text in found]


def pairs(articles: list[list[str]], chance: random.Random) -> list[tuple[int, str, str]]:
    found: list[tuple[int, str, str]] = []
    for place, article in enumerate(articles):
        for number, passage in enumerate(article[:-1]):
            found.append((2, passage, article[number + 1]))
            apart = [other for other in range(len(article)) if abs(other - number) > 1]
            if apart:
                found.append((1, passage, article[chance.choice(apart)]))
            other = chance.choice([n for n in range(len(articles)) if n != place])
            found.append((0, passage, chance.choice(articles[other])))
    chance.shuffle(found)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build/long_texts"))
