"""Pairs of texts as samples, and the metric that scores them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from compressctl.core.data import Tuples, tuples_of
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.params import SentencePairsParams
from compressctl.sources.sentence_pairs import fingerprint, load
from compressctl.tasks.metrics import spearman

tokenizers = pytest.importorskip("tokenizers")

ROWS = [(f"word{i} a", f'b "word{i % 3}', i / 4) for i in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, **{f"word{i}": 4 + i for i in range(20)}}
    model = tokenizers.models.WordLevel(words, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "plain.tsv").write_text("".join(f"x\t{score}\t{a}\t{b}\n" for a, b, score in ROWS))
    named = "".join(f"{a}\t{b}\t{score}\n" for a, b, score in ROWS)
    (tmp_path / "named.tsv").write_text("one\ttwo\tscore\n" + named)
    (tmp_path / "test.tsv").write_text("x\t5\ta\ta\nx\t0\ta\tb\n")
    return tmp_path


def _params(**changes: object) -> SentencePairsParams:
    given = {
        "path": "plain.tsv",
        "columns": {"first": 2, "second": 3, "label": 1},
        "tokenizer": "tokenizer.json",
        "max_length": 4,
        **changes,
    }
    return SentencePairsParams.model_validate(given)


SIZES = SplitSizes(validation=4, calibration=5, test=6)


def test_two_samples_in_a_row_are_a_pair_in_every_split(folder: Path) -> None:
    data = load(_params(), SIZES, folder, seed=0)
    seen: list[float] = []
    for name, pairs in (("train", 5), ("validation", 4), ("calibration", 5), ("test", 6)):
        split = data.split(name)  # type: ignore[arg-type]
        assert len(split) == 2 * pairs
        (batch,) = split.batches(100)
        assert batch.labels is not None
        assert np.array_equal(batch.labels[::2], batch.labels[1::2])
        for first, second, label in zip(
            batch.inputs["input_ids"][::2], batch.inputs["input_ids"][1::2], batch.labels[::2], strict=True
        ):
            number = round(float(label) * 4)
            assert first.tolist() == [4 + number, 2, 0, 0]
            assert second.tolist() == [3, 1, 4 + number % 3, 0]
            seen.append(number)
        assert batch.inputs["attention_mask"][0].tolist() == [1, 1, 0, 0]
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_shuffled_batches_hold_whole_pairs(folder: Path, batch_size: int) -> None:
    split = load(_params(padding="longest"), SIZES, folder, seed=0).split("train")
    batches = list(split.batches(batch_size, shuffle_seed=5))
    assert all(np.array_equal(batch.indices[::2] + 1, batch.indices[1::2]) for batch in batches)
    assert sorted(np.concatenate([batch.indices for batch in batches])) == sorted(
        np.concatenate([batch.indices for batch in split.batches(100)])
    )


def test_the_range_of_scores_is_the_one_outside_the_test_split_unless_it_is_said(folder: Path) -> None:
    own = SplitSizes(validation=4, calibration=5)
    assert tuples_of(load(_params(test_path="test.tsv"), own, folder, 0).split("train")) == Tuples(2, (0, 4.75))
    said = load(_params(test_path="test.tsv", score_range=[0, 5]), own, folder, 0)
    assert tuples_of(said.split("test")) == Tuples(2, (0, 5))
    (folder / "plain.tsv").write_text("".join(f"x\t{score}\ta\tb\n" for score in (0.25, 0.5, -0.5, 0.75) * 5))
    assert tuples_of(load(_params(), SIZES, folder, 0).split("train")) == Tuples(2, (0, 1))


def test_columns_have_names_or_positions(folder: Path) -> None:
    named = _params(path="named.tsv", columns={"first": "one", "second": "two", "label": "score"})
    ours, theirs = (
        next(iter(load(params, SIZES, folder, 0).split("test").batches(99))) for params in (named, _params())
    )
    assert np.array_equal(ours.inputs["input_ids"], theirs.inputs["input_ids"])
    with pytest.raises(UsageError, match="no column 'three'"):
        load(_params(path="named.tsv", columns={"first": "one", "second": "three", "label": "score"}), SIZES, folder, 0)


def test_a_table_of_its_own_is_the_test_split(folder: Path) -> None:
    data = load(_params(test_path="test.tsv"), SplitSizes(validation=0, calibration=0), folder, 0)
    assert (len(data.split("train")), len(data.split("test"))) == (40, 4)


@pytest.mark.parametrize(
    ("line", "says"), [("x\t1", r"plain.tsv:1: it has 2 columns"), ("x\tmuch\ta\tb", "'much' is not a number")]
)
def test_a_bad_row_is_named(folder: Path, line: str, says: str) -> None:
    (folder / "plain.tsv").write_text(line + "\n")
    with pytest.raises(UsageError, match=says):
        load(_params(), SIZES, folder, 0)


def test_another_tokenizer_is_other_data(folder: Path) -> None:
    before = fingerprint(_params(), folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("word19", "word99"))
    assert fingerprint(_params(), folder) != before
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a tokenizer"):
        load(_params(), SIZES, folder, 0)


def test_spearman_is_the_rank_correlation_of_cosines() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(0, 1, (40, 8)).astype(np.float32), np.repeat(rng.integers(0, 6, 20), 2)
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(rows[::2].astype(float), rows[1::2].astype(float), strict=True)
    ]
    assert spearman(rows, labels) == pytest.approx(100 * spearmanr(cosines, labels[::2]).statistic)
    assert spearman(3 * rows, labels) == pytest.approx(spearman(rows, labels))
    assert np.isnan(spearman(np.ones((40, 8)), labels))


def test_spearman_refuses_what_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="two samples in a row"):
        spearman(np.ones((4, 2)), np.array([1, 2, 3, 3]))
    with pytest.raises(ValueError, match="two samples in a row"):
        spearman(np.ones((3, 2)), np.array([1, 1, 1]))
