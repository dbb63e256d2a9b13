"""The playground of an encoder: tasks of all kinds side by side, similarity, choosing tasks, keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.api.live import Gate, Live, adapter_files, fresh
from tests.page.conftest import READER
from tests.page.looking import focused, said, tab_to
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

# What each kind's head has, and its labels.
KINDS = {
    "mood": ("classify", ["bad", "so-so", "good"]),
    "names": ("tokens", ["B-PER", "I-PER", "O", "B-ORG"]),
    "value": ("regress", ["value"]),
    "answer": ("span", ["start", "end"]),
    "order": ("rerank", ["relevance"]),
    "vector": ("embed", []),
}
TEXT = "\U0001f600 w1 w2 w3 w4 w5 w6 w7 w8"  # its first character is two of JavaScript's


@pytest.fixture(scope="module")
def kinds(live: Live) -> Live:
    """The server with a task of each kind, called as in KINDS."""
    for seed, (task, (kind, labels)) in enumerate(KINDS.items(), start=17):
        settings = {"labels": labels} if kind in ("classify", "tokens") else None
        files = adapter_files(live.backbone, kind=kind, labels=len(labels) or 3, seed=seed, settings=settings)
        answer = live.upload(task, files, **({} if kind == "embed" else {"task": f'{{"kind": "{kind}"}}'}))
        assert answer.status_code == 201, answer.text
    return live


def choose(page: Page, *tasks: str) -> Locator:
    """Chooses tasks by keyboard, those alone; gives the field that finds them."""
    field = page.get_by_role("combobox", name=re.compile("^Tasks"))
    page.locator(".chip").first.wait_for()  # those that are chosen at first
    field.focus()
    while page.locator(".chip").count():
        page.keyboard.press("Backspace")
    for task in tasks:
        field.fill(task)
        option = page.get_by_role("option", name=re.compile(rf"^{re.escape(task)}\b"))
        wait_until(lambda o=option: o.count() > 0, f"{task} in the list")
        while field.get_attribute("aria-activedescendant") != option.first.get_attribute("id"):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.get_by_role("button", name=f"Remove {task}", exact=True).wait_for()
    page.keyboard.press("Escape")
    return field


def chosen(page: Page) -> list[str]:
    return page.locator(".chip > span").all_inner_texts()


def ask(page: Page, text: str = TEXT, second: str | None = None) -> None:
    """Asks by keyboard, and waits for the answers."""
    page.locator("#text").fill(text)
    if second is not None:
        page.locator("#second").fill(second)
    page.keyboard.press("Control+Enter")
    said(page, "answered in")


def card(page: Page, task: str) -> Locator:
    return page.get_by_role("article", name=task, exact=True)


def test_kinds_answer_side_by_side_in_one_call(kinds: Live, open_page, assert_accessible):
    page = open_page(kinds, "playground", color_scheme="light")
    choose(page, "mood", "names", "value", "vector", "base")
    with page.expect_request("**/v1/predict") as request:
        ask(page)
    assert request.value.post_data_json == {"tasks": ["mood", "names", "value", "vector", "base"], "inputs": TEXT}
    said(page, "5 tasks answered")

    (mood,) = kinds.outputs("mood", TEXT)
    text = card(page, "mood").inner_text()
    assert text.count(mood["label"]) >= 2
    for label, score in mood["scores"].items():
        row = (
            card(page, "mood")
            .get_by_role("row")
            .filter(has=page.get_by_role("rowheader", name=re.compile(f"^{label}")))
        )
        assert abs(float(row.get_by_role("cell").last.inner_text().removesuffix(" %")) - 100 * score) <= 0.51
    value = card(page, "value").locator(".verdict").inner_text()
    assert float(value) == pytest.approx(kinds.outputs("value", TEXT)[0]["value"], rel=1e-3)
    assert f"{kinds.backbone.hidden} numbers" in card(page, "base").inner_text()
    assert "Version 1" in card(page, "vector").inner_text()
    shared = page.get_by_role("listitem").filter(has=page.get_by_role("link", name=re.compile("^Batch")))
    assert "mood, names, value, vector, and base in one pass (5 sequences; base, lora)" in shared.inner_text()

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert_accessible(page)


def test_tokens_are_marked_where_they_stand_and_named(kinds: Live, open_page):
    page = open_page(kinds, "playground/ask/names")
    ask(page)
    (output,) = kinds.outputs("names", TEXT)
    marks = card(page, "names").locator("mark")
    assert len({e["entity_group"] for e in output["entities"]}) > 1
    assert marks.all_text_contents() == [f"{e['word']} ({e['entity_group']})" for e in output["entities"]]
    colours = {
        mark["label"]: mark["colour"]
        for mark in marks.evaluate_all(
            "marks => marks.map(mark => ({"
            " label: mark.querySelector('.label').textContent, colour: getComputedStyle(mark).borderColor}))"
        )
    }
    assert len(set(colours.values())) == len(colours)
    legend = card(page, "names").get_by_role("list", name="Labels").get_by_role("listitem").all_inner_texts()
    counted = [e["entity_group"] for e in output["entities"]]
    assert legend == [f"{label} × {counted.count(label)}" for label in sorted(set(counted))]
    card(page, "names").get_by_text(f"{len(output['tokens'])} tokens").click()
    rows = card(page, "names").get_by_role("table").get_by_role("row").all_inner_texts()[1:]
    assert [row.split("\t")[:2] for row in rows] == [[t["text"], t["label"]] for t in output["tokens"]]


def test_an_error_stays_in_its_own_card(kinds: Live, open_page, assert_accessible):
    gone = fresh()
    assert kinds.upload(gone, adapter_files(kinds.backbone)).status_code == 201
    page = open_page(kinds, "playground")
    choose(page, "mood", gone, "value")
    kinds.client.delete(f"/v1/tasks/{gone}")
    ask(page)
    said(page, "2 tasks answered")
    said(page, "1 failed")
    card(page, gone).get_by_text(f"The task `{gone}` does not exist").wait_for()
    assert card(page, "mood").get_by_role("table").count() == 1
    assert_accessible(page)


def test_a_question_can_be_stopped(kinds: Live, gate: Gate, open_page):
    page = open_page(kinds, "playground/ask/mood")
    page.locator("#text").fill(TEXT)
    page.locator("#text").press("Control+Enter")
    gate.wait_for(1)
    tab_to(page, "Stop")
    page.keyboard.press("Enter")
    said(page, "Stopped.")
    assert focused(page) == "Ask"
    gate.open()
    kinds.wait_idle()


def test_pairs_an_answer_in_its_context_and_documents_in_order(kinds: Live, open_page, assert_accessible):
    page = open_page(kinds, "playground")
    choose(page, "answer", "order", "names")
    page.locator("#text").fill("w9")
    page.keyboard.press("Control+Enter")  # without the other text
    assert focused(page) == "Context; Documents, one a line"
    page.get_by_text("For answer, order.").wait_for()
    documents = [TEXT, "w3 w4", "w50 w51 w52"]
    context = "\n".join(documents)
    ask(page, "w9", context)
    (found,) = kinds.outputs("answer", {"text": "w9", "text_pair": context})
    shown = card(page, "answer").locator("blockquote")
    assert shown.locator("mark").text_content() == f"{found['answer']} (the answer)"
    assert shown.text_content() == f"{context[: found['end']]} (the answer){context[found['end'] :]}"
    scores = [o["score"] for o in kinds.outputs("order", [{"text": "w9", "text_pair": d} for d in documents])]
    best_first = [d for _, d in sorted(zip(scores, documents, strict=True), reverse=True)]
    assert card(page, "order").get_by_role("rowheader").all_inner_texts() == best_first
    assert_accessible(page)


def test_parameters_are_those_of_the_kinds_and_stand_in_the_command(kinds: Live, open_page, assert_accessible):
    page = open_page(kinds, "playground")
    choose(page, "mood", "vector")
    page.get_by_text("Parameters", exact=True).click()
    assert page.locator("fieldset.parameters legend").all_inner_texts() == ["classify", "embed"]
    page.get_by_label("Best labels (top_k)").fill("0")
    page.locator("#text").fill("it's w1")
    page.get_by_text("Parameters", exact=True).click()  # folded: a wrong field is shown again
    page.locator("#text").focus()
    page.keyboard.press("Control+Enter")
    assert focused(page) == "Best labels (top_k)"
    page.get_by_label("Best labels (top_k)").fill("2")
    page.get_by_label("Pooling").select_option("cls")
    page.get_by_label("Length one (normalize)").select_option("no")
    with page.expect_request("**/v1/predict") as request:
        ask(page, "it's w1")
    requests = [
        {"task": "mood", "inputs": "it's w1", "parameters": {"top_k": 2}},
        {"task": "vector", "inputs": "it's w1", "parameters": {"pooling": "cls", "normalize": False}},
    ]
    assert request.value.post_data_json == {"requests": requests}
    assert card(page, "mood").get_by_role("rowheader").count() == 2
    page.get_by_text("As curl").click()
    command = page.get_by_label("The request as a curl command").inner_text()
    assert f"curl -s 'http://{kinds.host}:{kinds.port}/v1/predict'" in command
    assert r"it'\''s w1" in command
    assert_accessible(page)


def test_similarity_of_two_texts(kinds: Live, open_page, assert_accessible):
    page = open_page(kinds, "playground")
    page.get_by_role("link", name="Similarity").click()
    field = choose(page, "base", "vector")
    field.fill("mood")
    option = page.get_by_role("option", name=re.compile("^mood"))
    option.wait_for()
    assert option.get_attribute("aria-disabled") == "true"
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.locator(".chip").count() == 2
    page.get_by_label("First text").fill("w1 w2 w3")
    page.get_by_label("Second text").fill("w1 w2 w4")
    page.get_by_label("Pooling").select_option("cls")
    page.keyboard.press("Control+Enter")
    said(page, "2 tasks answered")
    for task in ("base", "vector"):
        one, other = (np.array(o["embedding"]) for o in kinds.outputs(task, ["w1 w2 w3", "w1 w2 w4"], pooling="cls"))
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert card(page, task).locator(".verdict").inner_text() == f"{cosine:.3f} cosine"
    assert_accessible(page)


def test_tasks_are_found_by_name_versions_and_aliases_too(kinds: Live, open_page, assert_accessible):
    files = adapter_files(kinds.backbone)
    stem = fresh("many")
    for number in range(60):
        assert kinds.upload(f"{stem}-{number:02d}", files).status_code == 201
    page = open_page(kinds, "playground")
    field = choose(page, f"{stem}-57", "shown@canary")
    assert chosen(page) == [f"{stem}-57", "shown@canary"]
    assert focused(page) == "Tasks"
    field.fill(stem.upper())
    page.get_by_text("The first 50; type a part of the name").wait_for()
    assert page.get_by_role("option").count() == 50
    assert_accessible(page)
    page.keyboard.press("Escape")
    assert field.get_attribute("aria-expanded") == "false"
    ask(page)
    assert "Version 2" in card(page, "shown@canary").inner_text()
    page.locator("#second").fill("w5")
    page.reload()  # what was written is still there
    page.locator(".chip").first.wait_for()
    assert chosen(page) == [f"{stem}-57", "shown@canary"]
    assert page.locator("#text").input_value() == TEXT
    assert page.locator("#second").input_value() == "w5"


def test_a_key_is_asked_for_and_stands_nowhere(guarded: Live, open_page):
    page = open_page(guarded, "playground")
    page.get_by_role("button", name="Enter a key").click()
    page.get_by_label("API key or admin key").fill(READER)
    page.keyboard.press("Enter")
    choose(page, "shown")
    ask(page)
    page.get_by_text("As curl").click()
    assert 'Authorization: Bearer $MANYHATS_KEY"' in page.get_by_label("The request as a curl command").inner_text()
    assert READER not in page.url + page.content()


def test_an_encoder_offers_no_texts_and_says_why(live: Live, open_page):
    page = open_page(live, "playground/generate")
    page.get_by_text(f"Nothing is generated here, as {live.backbone.name} is an encoder").wait_for()
    assert page.get_by_role("navigation", name="Ways to ask").get_by_role("link").all_inner_texts() == [
        "Side by side",
        "Similarity",
    ]


def test_a_task_is_tried_from_its_own_view(live: Live, open_page):
    page = open_page(live, "tasks/shown")
    page.get_by_role("link", name="Try it").wait_for()
    tab_to(page, "Try it")
    page.keyboard.press("Enter")
    page.locator(".chip").first.wait_for()
    assert chosen(page) == ["shown"]
    ask(page)
    assert "Version 1" in card(page, "shown").inner_text()
