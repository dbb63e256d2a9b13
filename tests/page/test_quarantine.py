"""Versions that are not asked: the page says why, and an admin's key has faulty ones asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.live import Live, adapter_files, fresh
from tests.api.test_damage import blob, changed
from tests.faults.test_isolation import overflowing
from tests.page.conftest import ADMIN, READER
from tests.page.looking import focused, refresh, said, tab_to

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser


def faulty(live: Live) -> str:
    """A task that is quarantined for its faults."""
    task = fresh("faulty")
    assert live.upload(task, overflowing(adapter_files(live.backbone))).status_code == 201
    for _ in range(live.runtime.settings.max_faults):
        assert live.ask(task).status_code == 500
    assert live.client.get(f"/v1/tasks/{task}").json()["damaged"] is False
    return task


def row(page: Page, task: str) -> Locator:
    """The task's row in the list."""
    page.get_by_label("Find a task").fill(task)
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=task, exact=True))


def test_a_quarantine_is_lifted_by_keyboard(live: Live, open_page, assert_accessible):
    task = faulty(live)
    page = open_page(live)
    listed = row(page, task)
    badge = listed.get_by_text("quarantined", exact=True)
    assert "it failed 5 times" in (badge.get_attribute("title") or "")
    listed.get_by_role("link").click()
    notice = page.get_by_role("region", name="Quarantine")
    notice.get_by_text("Version 1 is quarantined: it failed 5 times").wait_for()
    assert page.get_by_role("rowheader", name="1 quarantined").count() == 1
    assert_accessible(page)
    tab_to(page, "Lift the quarantine")
    page.keyboard.press("Enter")
    said(page, f"{task} is asked as ever.")
    notice.wait_for(state="detached")
    assert focused(page) == task  # the heading
    assert "quarantined" not in live.client.get(f"/v1/tasks/{task}").json()


def test_only_an_admins_key_lifts_a_quarantine(guarded: Live, open_page):
    task = faulty(guarded)
    page = open_page(guarded, f"tasks/{task}")
    for key in (READER, ADMIN):
        page.get_by_role("button", name="Key", exact=True).or_(page.get_by_role("button", name="Key set")).click()
        page.get_by_label("API key or admin key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Lift the quarantine").click()
        if key == READER:
            page.get_by_role("alert").filter(has_text="one with the scope 'admin' may").wait_for()
    said(page, f"{task} is asked as ever.")


def test_damaged_files_cannot_be_lifted(live: Live, open_page):
    task = fresh("damaged")
    assert live.upload(task, adapter_files(live.backbone, seed=9)).status_code == 201
    live.wait_loaded()
    changed(blob(live, task))
    live.client.post(f"/v1/tasks/{task}/unload")
    assert live.ask(task).status_code == 500
    page = open_page(live)
    listed = row(page, task)
    listed.get_by_text("damaged", exact=True).wait_for()
    listed.get_by_role("link").click()
    page.get_by_role("region", name="Quarantine").get_by_text("Version 1 is damaged").wait_for()
    assert page.get_by_role("button", name="Lift the quarantine").count() == 0
    live.client.delete(f"/v1/tasks/{task}")


def test_a_task_that_runs_alone_says_so_and_is_lifted(live: Live, open_page):
    task = fresh("alone")
    assert live.upload(task, adapter_files(live.backbone, seed=10)).status_code == 201
    sha = live.client.get(f"/v1/tasks/{task}").json()["versions"][0]["sha256"]
    live.runtime.service.verifier.reasons[sha] = "its answer differed from the one alone"
    page = open_page(live, f"tasks/{task}")
    page.get_by_text("Version 1 runs alone: its answer differed from the one alone").wait_for()
    page.get_by_role("button", name="Have it share batches again").click()
    said(page, f"{task} is asked as ever.")
    refresh(page)
    page.get_by_role("region", name="Quarantine").wait_for(state="detached")
