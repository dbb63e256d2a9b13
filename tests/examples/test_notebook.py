"""The notebook from a CSV to a served task: it runs anew, and what is committed of it was run."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "examples" / "from_csv_to_task.ipynb"
GOOD, BAD = ("lovely", "great", "kind", "brilliant", "happy"), ("awful", "late", "rude", "broken", "sad")
THINGS = ("train", "food", "film", "room", "staff", "song")


@pytest.fixture(scope="module")
def notebook() -> Any:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_every_cell_was_run_in_order_and_none_failed(notebook: Any) -> None:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]


def test_no_output_names_a_place_of_the_machine_that_ran_it(notebook: Any) -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    for place in ("/home/", "/root/", "/tmp/", "/work/"):
        assert place not in text
    assert len(text) < 400_000


@pytest.mark.slow
def test_it_runs_from_the_csv_to_the_roll_back(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    pick = random.Random(0)
    rows = [(word, label) for label, words in (("positive", GOOD), ("negative", BAD)) for word in words * 6]
    pick.shuffle(rows)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((f"the {pick.choice(THINGS)} was {word} {n}", label) for n, (word, label) in enumerate(rows))
    for name, value in {"DATA": "rows.csv", "WORK": "work"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("ROWS", "44")
    monkeypatch.setenv("EPOCHS", "1")
    done = NotebookClient(
        nbformat.read(NOTEBOOK, as_version=4),
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": NOTEBOOK.parent}},
    ).execute()
    said = [
        "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")
        for cell in done.cells
        if cell.cell_type == "code"
    ]
    asked = [text.splitlines()[-4:] for text in said if "\nversion" in f"\n{text}"]
    assert [lines[0] for lines in asked] == ["version 1", "version 2", "version 1"]
    assert asked[0] == asked[2]
