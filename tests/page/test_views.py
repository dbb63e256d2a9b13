"""Every view: it fits, everybody can use it, and its figures are the server's."""

from __future__ import annotations

import re

import pytest

from tests.api.live import Live, adapter_files, fresh
from tests.page.looking import focused, refresh, settled, tab_to
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

VIEWS = ["tasks", "tasks/shown", "tasks/nobody", "upload", "batches", "playground", "nowhere"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
CURVES = {
    "metric": "accuracy",
    "more_is_better": True,
    "steps": [10, 20, 30],
    "losses": [0.7, 0.4, 0.2],
    "epochs": [1, 2],
    "epoch_losses": [0.5, 0.3],
    "scores": [0.8, None],
    "best_epoch": 1,
}


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_and_is_accessible(live: Live, open_page, assert_accessible, viewport, scheme):
    page = open_page(live, viewport=viewport, color_scheme=scheme)
    for view in VIEWS:
        page.evaluate("view => { location.hash = '#/' + view; }", view)
        page.locator("h1").wait_for()
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        assert_accessible(page)
    page.get_by_role("button", name="Key").click()
    page.get_by_role("dialog").wait_for()
    assert_accessible(page)


def test_colours_can_be_chosen(live: Live, open_page, assert_accessible):
    page = open_page(live, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Colours: system").click()
    page.get_by_role("button", name="Colours: light").click()
    page.get_by_role("button", name="Colours: dark").wait_for()
    dark = page.evaluate(background)
    assert dark != light
    settled(page)
    assert_accessible(page)
    page.reload()
    page.locator("h1").wait_for()
    assert page.evaluate(background) == dark


def test_the_list_says_what_the_server_says(live: Live, open_page):
    page = open_page(live)
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="shown", exact=True))
    text = row.inner_text()
    assert "classify" in text
    assert "lora" in text
    assert "in a slot" in text
    assert re.search(r"\d ms", text)
    row.get_by_role("img", name=re.compile("Requests in five minutes: [1-9]")).wait_for()
    page.get_by_role("region", name="The server").get_by_text(live.backbone.name).wait_for()


def test_the_focus_stays_where_it_is_while_figures_change(live: Live, open_page):
    page = open_page(live)
    tab_to(page, "shown")
    page.evaluate("document.activeElement.dataset.same = 'yes'")
    task = "a-new-one"
    live.upload(task, adapter_files(live.backbone))
    for _ in range(2):
        with page.expect_response(re.compile("v1/traffic.task=")):
            refresh(page)
    page.get_by_role("link", name=task, exact=True).wait_for()
    assert focused(page) == "shown"
    assert page.evaluate("document.activeElement.dataset.same") == "yes"
    live.client.delete(f"/v1/tasks/{task}")
    refresh(page)
    page.get_by_role("link", name=task, exact=True).wait_for(state="detached")
    assert focused(page) == "shown"


def test_the_page_asks_nothing_while_its_tab_is_hidden(live: Live, open_page):
    page = open_page(live)
    settled(page)
    page.clock.install()
    hide = "on => { Object.defineProperty(document, 'hidden', {value: on, configurable: true});"
    show = f"{hide} document.dispatchEvent(new Event('visibilitychange')); }}"
    page.evaluate(show, False)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_response(re.compile("v1/overview")):
        page.clock.run_for(6_000)
    page.evaluate(show, True)
    asked.clear()
    page.clock.run_for(60_000)
    assert asked == []
    with page.expect_response(re.compile("v1/overview")):
        page.evaluate(show, False)


def test_many_tasks_are_shown_a_page_at_a_time_and_found_by_name(live: Live, open_page):
    stem, files = fresh("crowd"), adapter_files(live.backbone)
    names = [f"{stem}-{number:02d}" for number in range(60)]
    for name in names:
        assert live.upload(name, files).status_code == 201
    page = open_page(live)
    lists: list[int] = []
    page.on("response", lambda got: "/v1/tasks?" in got.url and lists.append(len(got.json()["data"])))
    links = page.locator("tbody th a")
    wait_until(lambda: links.count() == 50, "a page of tasks")
    page.get_by_label("Find a task").fill(stem.upper())
    page.get_by_role("link", name=names[49], exact=True).wait_for()
    assert links.count() == 50
    page.get_by_role("button", name="Next").click()
    page.get_by_role("link", name=names[59], exact=True).wait_for()
    assert links.count() == 10
    page.get_by_label("Find a task").fill(names[7])
    wait_until(lambda: links.all_inner_texts() == [names[7]], "one task")
    page.get_by_label("Find a task").fill("nobody-has-this")
    page.get_by_text("No task has").wait_for()
    assert max(lists) == 50  # however many there are


def test_batches_name_the_tasks_that_shared_them(live: Live, open_page):
    live.client.post("/v1/predict", json={"tasks": ["shown", "asked"], "inputs": ["w1", "w2"]})
    page = open_page(live, "batches")
    row = page.locator("tbody tr").first
    row.get_by_role("link", name="asked", exact=True).wait_for()
    text = row.inner_text()
    for word in ("shown 2", "asked 2", "lora", "mask", "4"):
        assert word in text, text
    page.get_by_role("button", name="Hold").click()
    live.outputs("asked-too", "w1")
    with page.expect_response(re.compile("v1/batches")):
        refresh(page)
    assert "asked-too" not in row.inner_text()
    page.get_by_role("button", name="Held").click()
    wait_until(lambda: "asked-too" in row.inner_text(), "the newest batch")


def test_a_card_is_shown_and_runs_nothing(live: Live, open_page):
    page = open_page(live, "tasks/shown")
    page.get_by_role("cell", name="96.0 %").wait_for()
    card = page.locator(".markdown")
    assert '<script>document.title = "taken over"</script>' in card.inner_text()
    assert page.title() == "shown · Manyhats"
    assert card.get_by_role("link").count() == 0
    assert "base_model" not in card.inner_text()


def test_curves_of_a_training_are_drawn_and_stand_in_a_table(live: Live, open_page, assert_accessible):
    page = open_page(live, "playground")
    page.route("**/versions/1", lambda route: route.fulfill(json=route.fetch().json() | {"curves": CURVES}))
    page.evaluate("location.hash = '#/tasks/shown'")
    page.get_by_role("img", name=re.compile(r"^Loss, by step\. loss: from 0\.20 to 0\.70, last 0\.20")).wait_for()
    page.get_by_role("img", name=re.compile(r"^Validation: accuracy, by epoch")).wait_for()
    figure = page.get_by_role("figure").filter(has_text="Validation: accuracy")
    figure.get_by_text("Numbers").click()
    assert figure.get_by_role("row").all_inner_texts()[1:] == ["1\t80 %", "2\t–"]
    assert_accessible(page)


def test_a_task_that_is_gone_says_so(live: Live, open_page):
    task = fresh()
    live.upload(task, adapter_files(live.backbone))
    page = open_page(live, f"tasks/{task}")
    page.get_by_role("button", name="Roll back").wait_for()
    live.client.delete(f"/v1/tasks/{task}")
    refresh(page)
    page.get_by_role("alert").filter(has_text=f"The task `{task}` does not exist").wait_for()
    assert page.get_by_role("button", name="Roll back").count() == 0
