"""The playground of a decoder: texts as they are written, stopping them, chats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import tiny
from tests.api.generating import CHAT, add, events
from tests.api.live import Gate, Live, serving
from tests.page.looking import focused, said, tab_to
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

LENGTH = 40  # tokens of a text that is long, as these go


@pytest.fixture(scope="module")
def live(base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose backbone is a tiny llama, whose tokenizer has no chat template."""
    with serving(tiny.load(base_folder("llama")), tmp_path_factory.mktemp("store")) as running:
        yield running


def choose(page: Page, *tasks: str) -> None:
    """Chooses tasks that write, those alone."""
    field = page.get_by_role("combobox", name=re.compile("^Tasks that write"))
    while page.locator(".chip").count():
        field.press("Backspace")
    for task in tasks:
        field.fill(task)
        page.get_by_role("option", name=re.compile(rf"^{task}\b")).click()
    page.keyboard.press("Escape")


def card(page: Page, task: str) -> Locator:
    return page.get_by_role("article", name=task, exact=True)


def test_a_text_comes_token_by_token_and_ends_where_it_is_stopped(live: Live, gate: Gate, open_page, assert_accessible):
    gate.open()
    task = add(live, defaults={"ignore_eos": True})
    asked = {"inputs": "w1 w2 w3", "parameters": {"max_new_tokens": LENGTH, "stream": True}}
    with live.client.stream("POST", f"/v1/tasks/{task}/predict", json=asked) as answer:
        pieces = [event["text"] for event in events(answer) if "finish_reason" in event]
    gate.close()
    page = open_page(live, f"playground/ask/{task}")
    page.get_by_text("No chats: the tokenizer of").wait_for()
    page.locator("#prompt").fill("w1 w2 w3")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("New tokens, at most").fill(str(LENGTH))
    page.keyboard.press("Control+Enter")
    written = card(page, task).locator(".written")
    shown = ""
    for steps, piece in enumerate(pieces[:6], start=1):
        gate.wait_for(steps)
        gate.let_one_pass()
        shown += piece
        wait_until(lambda text=shown: written.text_content() == text, f"{steps} tokens are shown")
    assert shown.strip()
    assert card(page, task).get_attribute("aria-busy") == "true"
    assert page.get_by_role("status").filter(has_text=shown.strip()).count() == 0  # read out at the end, and once
    assert_accessible(page)

    tab_to(page, "Stop")
    page.keyboard.press("Enter")
    card(page, task).get_by_text("stopped").wait_for()
    said(page, f"{task} was stopped: {shown.strip()}")
    assert focused(page) == "Generate"
    gate.open()
    wait_until(lambda: "manyhats_sequences_running 0.0" in live.client.get("/metrics").text, "nothing is written")
    live.wait_idle()
    assert gate.entered < LENGTH / 2


def test_one_of_several_texts_is_stopped(live: Live, gate: Gate, open_page):
    gate.open()
    ended, stopped = add(live), add(live)
    gate.close()
    page = open_page(live, "playground/generate")
    choose(page, ended, stopped)
    page.locator("#prompt").fill("w1 w2 w3")
    page.locator("#prompt").press("Control+Enter")
    gate.wait_for(1)
    page.get_by_role("button", name=f"Stop {stopped}").click()
    card(page, stopped).get_by_text("stopped", exact=True).wait_for()
    assert page.evaluate("document.activeElement.tagName") == "ARTICLE"
    gate.open()
    said(page, f"{ended} has answered")
    assert card(page, ended).get_by_text("stopped", exact=True).count() == 0


def test_tasks_write_side_by_side_what_the_server_answers(live: Live, open_page, assert_accessible):
    tasks = [add(live), add(live, "prefix"), "base"]
    page = open_page(live, "playground/generate", color_scheme="dark")
    choose(page, *tasks)
    page.locator("#prompt").fill("w1 w2 w3")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("New tokens, at most").fill("6")
    page.get_by_label("Stop before").fill("w7\nw8")
    page.get_by_text("As curl").click()
    assert "curl -sN" in page.get_by_label("The request as a curl command").inner_text()
    page.keyboard.press("Control+Enter")
    said(page, "3 texts in")
    for task in tasks:
        (output,) = live.outputs(task, "w1 w2 w3", max_new_tokens=6, stop=["w7", "w8"])
        assert card(page, task).locator(".written").text_content() == (output["text"] or "No text")
    assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert_accessible(page)


def test_a_chat_goes_on_with_what_was_said(live: Live, open_page, assert_accessible):
    one, other = (add(live, chat_template=CHAT, defaults={"ignore_eos": True}) for _ in range(2))
    page = open_page(live, "playground/generate")
    choose(page, one, other)
    page.get_by_label("a message of a chat").check()
    page.get_by_label("System prompt").fill("w9")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("New tokens, at most").fill("4")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Frequency penalty").fill("0.5")
    page.locator("#prompt").fill("w1")
    page.locator("#prompt").press("Control+Enter")
    said(page, "2 texts in")
    first = card(page, one).locator(".written").inner_text()
    assert page.locator("#prompt").input_value() == ""

    page.locator("#prompt").fill("w2")
    with page.expect_request(lambda request: f'"model":"{one}"' in (request.post_data or "")) as request:
        page.locator("#prompt").press("Control+Enter")
    messages = [
        {"role": "system", "content": "w9"},
        {"role": "user", "content": "w1"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "w2"},
    ]
    sent = request.value.post_data_json
    typed = {"max_tokens": 4, "temperature": 0, "frequency_penalty": 0.5}
    assert (sent["messages"], {name: sent[name] for name in typed}) == (messages, typed)
    wait_until(lambda: page.locator("article[aria-busy=false]").count() == 4, "two answers to each message")
    body = {"model": one, "messages": messages, **typed}
    answer = live.client.post("/v1/chat/completions", json=body).json()
    assert card(page, one).last.locator(".written").inner_text() == answer["choices"][0]["message"]["content"]
    assert_accessible(page)

    said_before = page.locator(".turns").inner_text()
    page.reload()
    page.locator(".turns").wait_for()
    assert page.locator(".turns").inner_text() == said_before
    page.get_by_role("button", name="New conversation").click()
    page.locator(".turns").wait_for(state="detached")
    assert focused(page) == "Message"


def test_what_fails_fails_in_its_own_card(live: Live, open_page):
    speaks, silent = add(live, chat_template=CHAT), add(live)
    page = open_page(live, "playground/generate")
    choose(page, speaks, silent)
    page.get_by_label("a message of a chat").check()
    page.locator("#prompt").fill("w1")
    page.locator("#prompt").press("Control+Enter")
    said(page, "1 text in")
    said(page, "1 failed")
    card(page, silent).get_by_text("has no chat template").wait_for()
    assert card(page, speaks).get_by_text("failed").count() == 0


def test_what_steers_the_sampling_is_typed_by_keyboard_and_sent(live: Live, open_page, assert_accessible):
    typed: dict[str, Any] = {
        "max_new_tokens": 6,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.5,
        "min_tokens": 2,
        "seed": 3,
        "ignore_eos": True,
        "stop": ["\n"],
        "bad_words": ["w7"],
    }
    page = open_page(live, "playground/generate")
    page.locator("#prompt").fill("w1 w2")
    page.get_by_text("Parameters", exact=True).focus()
    page.keyboard.press("Enter")
    for value in typed.values():
        page.keyboard.press("Tab")
        if value is True:
            page.keyboard.press("Space")
        else:
            page.keyboard.type(str(value) if not isinstance(value, list) else value[0].replace("\n", "\\n"))
    assert_accessible(page)
    with page.expect_request(re.compile("/base/predict$")) as request:
        page.keyboard.press("Control+Enter")
    assert request.value.post_data_json["parameters"] == typed | {"stream": True}
    said(page, "1 text in")
    answer = live.client.post("/v1/tasks/base/predict", json={"inputs": "w1 w2", "parameters": typed})
    assert card(page, "base").locator(".written").inner_text() == answer.json()["outputs"][0]["text"]
    page.get_by_label("Presence penalty").fill("3")
    page.keyboard.press("Control+Enter")
    assert page.get_by_label("Presence penalty").evaluate("field => field.validity.rangeOverflow")


def test_a_decoder_answers_side_by_side_and_embeds(live: Live, open_page):
    page = open_page(live, "playground/ask")
    field = page.get_by_role("combobox", name="Tasks")
    page.locator(".chip").first.wait_for()
    while page.locator(".chip").count():
        field.press("Backspace")
    field.fill("base")
    page.get_by_role("option", name="base").click()
    page.keyboard.press("Escape")
    page.locator("#text").fill("w1 w2")
    page.keyboard.press("Control+Enter")
    said(page, "1 task answered")
    (output,) = live.outputs("base", "w1 w2")
    assert card(page, "base").locator(".written").inner_text() == (output["text"] or "No text")
    page.get_by_label("What base answers").select_option("embed")
    page.keyboard.press("Control+Enter")
    card(page, "base").get_by_text(f"{live.backbone.hidden} numbers").wait_for()
    page.get_by_role("link", name="Similarity").click()
    page.get_by_label("First text").fill("w1")
    page.get_by_label("Second text").fill("w1")
    page.keyboard.press("Control+Enter")
    card(page, "base").get_by_text("1.000").wait_for()
