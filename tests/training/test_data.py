"""Reading, checking and splitting labelled data."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manyhats.core.kinds.classify import ClassifyTraining
from manyhats.core.kinds.examples import Columns, Example
from manyhats.core.kinds.registry import TRAININGS
from manyhats.errors import InvalidRequest
from manyhats.training.data import load, split
from manyhats.training.files import read_examples

from tests.training.samples import rows, write_jsonl


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_csv_with_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", '\ufefftext,label\n"one, ""two""\nthree",yes\nfour,no\n')
    read = read_examples(path, TRAININGS["classify"], Columns())
    assert [(e.text, e.target) for e in read] == [('one, "two"\nthree', "yes"), ("four", "no")]


def test_reads_jsonl_with_other_column_names_and_a_pair(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", '{"q": "one", "r": "two", "y": 1}\n\n{"q": "three", "r": "four", "y": true}\n')
    read = read_examples(path, TRAININGS["classify"], Columns(text="q", text_pair="r", label="y"))
    assert [(e.text, e.pair, e.target) for e in read] == [("one", "two", "1"), ("three", "four", "True")]


def test_reads_words_from_lists_and_from_spaces(tmp_path: Path) -> None:
    lists = _write(tmp_path, "a.jsonl", '{"tokens": ["a", "b"], "tags": ["X", "Y"]}\n')
    spaces = _write(tmp_path, "a.csv", "tokens,tags\na b,X Y\n")
    assert read_examples(lists, TRAININGS["tokens"], Columns()) == read_examples(spaces, TRAININGS["tokens"], Columns())


@pytest.mark.parametrize(
    ("kind", "name", "text", "message"),
    [
        ("classify", "a.csv", "text,label\none,x\n", None),
        ("classify", "a.txt", "", "ends in '.txt'"),
        ("classify", "a.csv", "", "has no rows"),
        ("classify", "a.csv", "text,label\n", "has no rows"),
        ("classify", "a.csv", "text,klass\none,x\n", "row 1: there is no column 'label'; the columns are: text, klass"),
        ("classify", "a.csv", "text,label\none,x\n,y\n", "row 2: column 'text' is empty"),
        ("classify", "a.csv", "text,label\none,x\ntwo\n", "row 2 has another number of fields"),
        ("classify", "a.csv", "text,label\none,x\ntwo,y,z\n", "row 2 has another number of fields"),
        ("classify", "a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', "row 2: there is no column 'label'"),
        ("classify", "a.jsonl", '{"text": "a", "label": "x"}\nnonsense\n', "row 2 is not valid JSON"),
        ("classify", "a.jsonl", "[1]\n", "row 1 is no JSON object"),
        ("classify", "a.jsonl", '{"text": 7, "label": "x"}\n', "row 1: column 'text': Input should be a valid string"),
        ("classify", "a.jsonl", '{"text": "a", "label": null}\n', "row 1: column 'label'"),
        ("regress", "a.csv", "text,label\none,much\n", "row 1: column 'label': Input should be a valid number"),
        ("regress", "a.csv", "text,label\none,nan\n", "row 1: column 'label': Input should be a finite number"),
        ("tokens", "a.jsonl", '{"tokens": ["a", "b"], "tags": ["X"]}\n', "row 1: there are 2 words, but 1 tags"),
        ("tokens", "a.jsonl", '{"tokens": [], "tags": []}\n', "row 1: column 'tokens' is empty"),
    ],
)
def test_says_which_row_is_wrong(tmp_path: Path, kind: str, name: str, text: str, message: str | None) -> None:
    path = _write(tmp_path, name, text)
    if message is None:
        assert read_examples(path, TRAININGS[kind], Columns())
        return
    with pytest.raises(InvalidRequest) as caught:
        read_examples(path, TRAININGS[kind], Columns())
    assert message in caught.value.message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(b"text,label\n\xff\xfe\x00,x\n")
        with pytest.raises(InvalidRequest, match="UTF-8"):
            read_examples(tmp_path / name, TRAININGS["classify"], Columns())


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"absent\.csv' does not exist"):
        load(TRAININGS["classify"], Columns(), tmp_path / "absent.csv")


def test_one_class_is_nothing_to_learn_from(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": "x"} for i in range(20)])
    with pytest.raises(InvalidRequest, match=r"every row of a\.jsonl has the label 'x'"):
        load(TRAININGS["classify"], Columns(), path)
    path = write_jsonl(tmp_path / "b.jsonl", [{"text": f"t{i}", "label": 3} for i in range(20)])
    with pytest.raises(InvalidRequest, match="has the same number"):
        load(TRAININGS["regress"], Columns(), path)


def test_too_few_rows_to_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    with pytest.raises(InvalidRequest, match="too few rows"):
        load(TRAININGS["classify"], Columns(), path)


def test_a_label_that_training_never_saw_is_an_error(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", rows("classify", 20, 0))
    other = write_jsonl(tmp_path / "other.jsonl", [*rows("classify", 2, 1), {"text": "a", "label": "neither"}])
    for held in ({"validation": other, "test": train}, {"validation": train, "test": other}):
        with pytest.raises(InvalidRequest, match=r"other\.jsonl, row 3: the label 'neither' does not occur"):
            load(TRAININGS["classify"], Columns(), train, **held)


def test_duplicates_of_training_rows_are_counted(tmp_path: Path) -> None:
    made = [{"text": f"t{i}", "label": f"{i % 2}"} for i in range(40)]
    train = write_jsonl(tmp_path / "train.jsonl", made[:20])
    validation = write_jsonl(tmp_path / "validation.jsonl", made[17:30])
    test = write_jsonl(tmp_path / "test.jsonl", made[30:])
    dataset = load(TRAININGS["classify"], Columns(), train, validation, test)
    assert dataset.notes == ["3 of 13 validation inputs also stand in the training data, which flatters the result."]
    assert [source.rows for source in dataset.sources] == [20, 13, 10]


def test_what_has_no_file_is_split_off(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": f"{i % 2}"} for i in range(200)])
    dataset = load(TRAININGS["classify"], Columns(), path, seed=3)
    assert (len(dataset.test), len(dataset.validation)) == (18, 20)
    assert len(dataset.train) == 162
    assert Counter(e.target for e in dataset.validation) == {"0": 10, "1": 10}
    again = load(TRAININGS["classify"], Columns(), path, seed=3)
    assert (again.train, again.test) == (dataset.train, dataset.test)
    assert load(TRAININGS["classify"], Columns(), path, seed=4).test != dataset.test


@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.sampled_from("xyz")), min_size=2, max_size=60),
    share=st.floats(0.05, 0.5),
)
def test_a_split_keeps_every_row_and_never_parts_duplicates(rows: list[tuple[int, str]], share: float) -> None:
    made = [Example(f"t{i}", None, (), label) for i, label in rows]
    kept, held = split(made, TRAININGS["classify"], share, random.Random(0))
    assert Counter(kept + held) == Counter(made)
    assert not {e.input for e in kept} & {e.input for e in held}
    assert {e.target for e in held} <= {e.target for e in kept}


def test_reads_parquet_and_datasets_folders_as_the_same(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = rows("classify", 30, 0)
    names = sorted({row["label"] for row in made})
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    whole = datasets.Dataset.from_list(made, features=features)
    whole.save_to_disk(str(tmp_path / "one"))
    whole.cast_column("label", datasets.Value("string"))
    datasets.Dataset.from_list(made).to_parquet(str(tmp_path / "data.parquet"))
    expected = read_examples(write_jsonl(tmp_path / "a.jsonl", made), TRAININGS["classify"], Columns())
    assert read_examples(tmp_path / "data.parquet", TRAININGS["classify"], Columns()) == expected
    assert read_examples(tmp_path / "one", TRAININGS["classify"], Columns()) == expected

    datasets.DatasetDict({"train": whole, "test": whole.select(range(10))}).save_to_disk(str(tmp_path / "splits"))
    loaded = load(TRAININGS["classify"], Columns(), tmp_path / "splits")
    assert len(loaded.test) == 10
    assert len(loaded.train) + len(loaded.validation) == 30
    assert [source.name for source in loaded.sources] == ["train", "test"]


def test_folders_that_are_no_data_say_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="was not saved by the library datasets"):
        read_examples(tmp_path, TRAININGS["classify"], Columns())
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InvalidRequest, match="is not readable as Parquet"):
        read_examples(tmp_path / "broken.parquet", TRAININGS["classify"], Columns())


def test_tags_of_datasets_get_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = [{"tokens": ["a", "b"], "tags": [1, 0]}]
    tags = datasets.List(datasets.ClassLabel(names=["X", "Y"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": tags})
    datasets.Dataset.from_list(made, features=features).save_to_disk(str(tmp_path / "d"))
    (read,) = read_examples(tmp_path / "d", TRAININGS["tokens"], Columns())
    assert read.target == ("Y", "X")


def test_labels_that_a_split_lacks_are_told(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": "xyz"[i % 3]} for i in range(30)])
    test = write_jsonl(tmp_path / "b.jsonl", [{"text": "u", "label": "x"}, {"text": "v", "label": "y"}])
    assert (
        "1 of 3 labels do not occur in the test data, and are not judged: z."
        in load(TRAININGS["classify"], Columns(), train, None, test).notes
    )


def test_a_split_keeps_what_a_kind_groups_on_one_side() -> None:
    class Grouped(ClassifyTraining):
        def group(self, example: Example) -> str:
            return example.text

    made = [Example(f"t{i % 10}", f"p{i}", (), "x") for i in range(50)]
    kept, held = split(made, Grouped(), 0.3, random.Random(0))
    assert len(held) == 15
    assert not {example.text for example in kept} & {example.text for example in held}
