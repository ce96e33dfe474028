"""Recognised text: read off scores and tokens, scored by character and word error, compared with the original's."""

import json
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.objects import as_objects
from compressctl.tasks.params import CtcParams, TokenTextParams
from compressctl.tasks.text import STRINGS, cer, ctc, exact, tokens, wer

TEXTS = st.lists(st.text(alphabet="abc ", max_size=6), min_size=1, max_size=5)
LETTERS = ["a", "b", "c"]


def scores_of(rows: list[list[int]], classes: int) -> np.ndarray:
    """(n, time, classes), the named class the likeliest of each step."""
    return np.eye(classes, dtype=np.float32)[np.array(rows)] * 3 - 1


def read(outputs: Any, **params: Any) -> list[str]:
    return list(ctc(CtcParams(alphabet=params.pop("alphabet", LETTERS), **params), Path())({"y": outputs}))


def test_repeats_collapse_and_blanks_part_them() -> None:
    assert read(scores_of([[1, 1, 0, 1, 2, 2, 0], [0, 3, 3, 3, 0, 0, 0]], 4)) == ["aab", "c"]


def test_the_blank_may_be_last() -> None:
    assert read(scores_of([[0, 0, 3, 0, 1]], 4), blank=-1) == ["aab"]


def test_an_alphabet_may_list_the_blank() -> None:
    assert read(scores_of([[1, 0, 1]], 4), alphabet=["<blank>", *LETTERS]) == ["aa"]


def test_a_space_may_follow_the_alphabet() -> None:
    assert read(scores_of([[1, 4, 2]], 5), space=True) == ["a b"]


@pytest.mark.parametrize(("axes", "moved"), [("ntc", (0, 1, 2)), ("tnc", (1, 0, 2)), ("nct", (0, 2, 1))])
def test_axes_may_stand_in_another_order(axes: str, moved: tuple[int, ...]) -> None:
    assert read(scores_of([[1, 2, 3], [3, 3, 1]], 4).transpose(moved), axes=axes) == ["abc", "ca"]


def test_steps_beyond_a_sample_s_length_do_not_count() -> None:
    decode = ctc(CtcParams(alphabet=LETTERS, lengths="n"), Path())
    assert decode({"y": scores_of([[1, 2, 3], [1, 2, 3]], 4), "n": np.array([1, 3])}) == ["a", "abc"]
    with pytest.raises(UsageError, match="does not hold a length for each of 2 samples"):
        decode({"y": scores_of([[1], [1]], 4), "n": np.array([1])})


@given(st.lists(st.text(alphabet="abc", max_size=5), min_size=1, max_size=4))
def test_what_is_written_with_blanks_between_is_read_back(texts: list[str]) -> None:
    length = 2 * max(map(len, texts)) + 1
    rows = [[0, *(step for letter in text for step in (LETTERS.index(letter) + 1, 0))] for text in texts]
    assert read(scores_of([row + [0] * (length - len(row)) for row in rows], 4)) == texts


def test_letters_come_from_a_file_or_from_the_model_s_metadata(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_bytes(b"a\r\nb\r\nc\r\n")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [])
    model = helper.make_model(graph)
    helper.set_model_props(model, {"character": "a\nb\nc"})
    onnx.save(model, tmp_path / "rec.onnx")
    for name in ("letters.txt", "rec.onnx"):
        decode = ctc(CtcParams(alphabet=name), tmp_path)
        assert decode({"y": scores_of([[1, 2, 3]], 4)}) == ["abc"]


def test_an_alphabet_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="3 letters and the output 9 classes"):
        read(scores_of([[1]], 9))
    with pytest.raises(UsageError, match="scores of steps are"):
        read(np.zeros((2, 3)))
    with pytest.raises(UsageError, match="the blank is class 9"):
        read(scores_of([[1]], 4), blank=9)


def test_tokens_end_at_the_end_token(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": 0, "</s>": 1, "▁hel": 2, "lo": 3, "▁you": 4}))
    params = TokenTextParams(vocabulary="vocab.json", end="</s>", skip=("<s>",), word_mark="▁")
    decode = tokens(params, tmp_path)
    rows = [[0, 2, 3, 4, 1, 3], [0, 4, 1, 1, 1, 1]]
    assert decode({"y": np.array(rows)}) == ["hello you", "you"]
    assert decode({"y": scores_of(rows, 5)}) == ["hello you", "you"]
    with pytest.raises(UsageError, match="token 5, and the vocabulary has 5"):
        decode({"y": np.array([[5]])})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"a": -1}', '{"a": 4000000}', '{"a": "b"}', "[" * 100_000, "[1]"])
def test_a_vocabulary_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(UsageError, match=r"v\.json"):
        tokens(TokenTextParams(vocabulary="v.json"), tmp_path)


def test_errors_are_those_of_a_hand_count() -> None:
    """A letter of seven is wrong, and one is too many; one word of three is wrong."""
    found, wanted = as_objects(["abx d", "ef"]), as_objects(["abc d", "e"])
    assert cer(found, wanted) == pytest.approx(100 * 2 / 6)
    assert wer(found, wanted) == pytest.approx(100 * 2 / 3)
    assert exact(found, wanted) == 0
    assert exact(found, found) == 100


def test_labels_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="a label is of type int"):
        cer(as_objects(["a"]), np.array([1]))


def test_without_jiwer_the_line_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jiwer", None)
    with pytest.raises(MissingDependencyError, match=r"needs jiwer") as caught:
        cer(as_objects(["a"]), as_objects(["a"]))
    assert caught.value.install == "pip install 'compressctl[recognition]'"


@given(TEXTS)
def test_texts_against_themselves_are_whole(texts: list[str]) -> None:
    results = as_objects(texts)
    found = STRINGS.tally(results, STRINGS.as_labels(results))
    assert (found.kept, found.added, found.edits) == (found.reference, 0, 0)
    assert found.equal_samples == exact(results, results) / 100 * len(texts)


@given(st.data(), TEXTS)
def test_edits_are_those_that_jiwer_counts(data: st.DataObject, texts: list[str]) -> None:
    others = data.draw(st.lists(st.text(alphabet="abc ", max_size=6), min_size=len(texts), max_size=len(texts)))
    found = STRINGS.tally(as_objects(texts), as_objects(others))
    whole = jiwer.transforms.ReduceToListOfListOfChars()
    count = jiwer.process_characters(texts, others, whole, whole)
    assert found.edits == count.substitutions + count.insertions + count.deletions
    assert found.characters == sum(map(len, texts))
    assert found.kept <= found.reference <= len(texts)


@pytest.mark.parametrize("rate", [cer, wer])
def test_errors_are_no_share_of_labels_that_hold_nothing(rate: Any) -> None:
    nothing = as_objects(["", " "])
    assert np.isnan(rate(as_objects(["a b c", ""]), nothing))
    assert rate(as_objects(["", ""]), nothing) == 0
