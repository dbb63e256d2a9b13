"""What is done with the page: uploads, roll-outs, rollbacks, deleting, keys; by keyboard where it says so."""

from __future__ import annotations

import io
import re
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from manyhats.api import uploads

from tests.api.live import Files, Live, adapter_files, fresh
from tests.page.conftest import ADMIN, READER
from tests.page.looking import focused, refresh, said, settled, tab_to
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import FileChooser

pytestmark = pytest.mark.browser


def written(files: Files, folder: Path) -> list[Path]:
    """The files where a browser can read them."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def two_versions(live: Live) -> str:
    """A task whose `stable` has moved from its first version to its second."""
    task = fresh()
    for seed in (1, 2):
        assert live.upload(task, adapter_files(live.backbone, seed=seed)).status_code == 201
    return task


def aliases(live: Live, task: str) -> dict[str, object]:
    return live.client.get(f"/v1/tasks/{task}").json()["aliases"]


# ---- uploads


def test_an_upload_by_keyboard(live: Live, open_page, tmp_path: Path):
    task = fresh()
    paths = written(adapter_files(live.backbone), tmp_path)
    page = open_page(live)
    # Playwright tells the browser to hand choosers over once somebody listens, and a key may arrive before that does.
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # it takes no builtin function
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    tab_to(page, "Upload")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Upload", exact=True).wait_for()
    tab_to(page, "Task")
    page.keyboard.type(task)
    tab_to(page, "Files of the adapter, or one zip or tar.gz")
    page.keyboard.press("Space")
    wait_until(lambda: page.evaluate("1") and choosers, "the browser asks for files")
    choosers[0].set_files(paths)
    page.get_by_text(f"{len(paths)} files chosen").wait_for()
    tab_to(page, f"Upload {len(paths)} files")
    page.keyboard.press("Enter")
    said(page, f"{task}: version 1 is in the store.")
    report = page.get_by_role("region", name=f"{task}, version 1")
    body = live.client.get(f"/v1/tasks/{task}/versions/1").json()
    shown = report.inner_text()
    for text in (body["method"], body["kind"], str(body["rank"]), str(body["matched_tensors"]), body["sha256"]):
        assert text in shown
    assert focused(page).startswith(f"{task}, version 1")  # the report has the focus
    page.keyboard.press("Tab")
    assert focused(page) == "Open the task"
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=task).wait_for()
    wait_until(lambda: focused(page) == task, "the heading has the focus")


def test_files_are_dropped_with_settings_and_warnings_are_shown(live: Live, open_page):
    task = fresh()
    page = open_page(live, f"upload/{task}")
    files = adapter_files(live.backbone) | {"notes.xyz": b"something else"}
    given = [[name, list(data)] for name, data in files.items()]
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, data] of files) transfer.items.add(new File([new Uint8Array(data)], name));
            return transfer;
        }""",
        given,
    )
    zone = page.locator(".drop")
    zone.dispatch_event("dragover", {"dataTransfer": transfer})
    zone.dispatch_event("drop", {"dataTransfer": transfer})
    page.get_by_role("list", name="Chosen files").get_by_text("notes.xyz").wait_for()
    page.get_by_label("Alias").fill("canary")
    page.get_by_text("Settings of the task").click()
    page.get_by_label("JSON, as for").fill('{"labels": ["one", "two", "three"]}')
    page.get_by_role("button", name=re.compile("^Upload")).click()
    report = page.get_by_role("region", name=f"{task}, version 1")
    report.get_by_text("notes.xyz").wait_for()
    assert aliases(live, task) == {"canary": 1}
    assert live.client.get(f"/v1/tasks/{task}@canary").json()["labels"] == ["one", "two", "three"]


def test_the_same_files_again_change_nothing_and_an_archive_is_taken(live: Live, open_page, tmp_path: Path):
    task, files = fresh(), adapter_files(live.backbone)
    live.upload(task, files)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    (tmp_path / "adapter.tar.gz").write_bytes(packed.getvalue())
    page = open_page(live, f"upload/{task}")
    page.get_by_label("Files of the adapter").set_input_files(tmp_path / "adapter.tar.gz")
    page.get_by_role("button", name="Upload 1 file").click()
    page.get_by_text("The same files were there before").wait_for()


def test_what_does_not_fit_is_refused_with_the_whole_reason(live: Live, open_page, tmp_path: Path):
    task, files = fresh(), adapter_files(live.backbone)
    page = open_page(live, f"upload/{task}")
    page.get_by_role("button", name="Upload", exact=True).click()
    page.get_by_role("alert").filter(has_text="Choose the adapter's files first.").wait_for()
    broken = {name: data if name.endswith(".json") else data[:100] for name, data in files.items()}
    page.get_by_label("Files of the adapter").set_input_files(written(broken, tmp_path))
    page.get_by_role("button", name=re.compile("^Upload")).click()
    reason = live.upload(task, broken).json()["error"]["message"]
    page.get_by_role("alert").filter(has_text=reason).wait_for()


def test_an_upload_shows_how_far_it_is(live: Live, open_page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checked, store = threading.Event(), uploads._store

    def waits(*given: object) -> object:
        assert checked.wait(60)
        return store(*given)

    monkeypatch.setattr(uploads, "_store", waits)
    task = fresh()
    page = open_page(live, f"upload/{task}")
    page.get_by_label("Files of the adapter").set_input_files(written(adapter_files(live.backbone), tmp_path))
    page.get_by_role("button", name=re.compile("^Upload")).click()
    try:
        page.get_by_role("progressbar", name="Sent. The server checks the files").wait_for()
        assert focused(page).startswith("Upload")  # where it was
        page.get_by_role("button", name="Stop").wait_for()
    finally:
        checked.set()
    page.get_by_text("Checked, and in the store.").wait_for()


# ---- versions and aliases


def test_a_rollback_by_keyboard(live: Live, open_page):
    task = two_versions(live)
    page = open_page(live, f"tasks/{task}")
    page.get_by_role("button", name="Roll back").wait_for()
    tab_to(page, "Roll back")
    page.keyboard.press("Enter")
    said(page, f"{task}: stable points at version 1 again.")
    assert aliases(live, task) == {"stable": 1}
    assert focused(page) == "Roll back"
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="1", exact=True))
    row.get_by_text("stable", exact=True).wait_for()


def test_the_slider_of_a_roll_out_by_keyboard(live: Live, open_page, assert_accessible):
    task = two_versions(live)
    page = open_page(live, f"tasks/{task}")
    page.get_by_role("button", name="Change stable").wait_for()
    tab_to(page, "Change stable")
    page.keyboard.press("Enter")
    tab_to(page, "Add a version")
    page.keyboard.press("Enter")
    slider = page.get_by_role("slider", name="Share of version 1")
    slider.wait_for()
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "10 %"
    assert page.get_by_role("slider", name="Share of version 2").get_attribute("aria-valuetext") == "90 %"
    with page.expect_response(re.compile(f"v1/tasks/{task}$")):
        refresh(page)  # what is being set is not what is read
    assert slider.get_attribute("aria-valuetext") == "10 %"
    assert focused(page) == "Share of version 1"
    assert_accessible(page)
    tab_to(page, "Save")
    page.keyboard.press("Enter")
    said(page, f"{task}: stable is set.")
    assert aliases(live, task) == {"stable": [{"version": 2, "weight": 90}, {"version": 1, "weight": 10}]}
    page.get_by_text("version 1: 10 %").wait_for()
    assert focused(page) == "Change stable"


def test_the_slider_keeps_the_canary_and_its_state_is_shown(live: Live, open_page):
    task = two_versions(live)
    split = [{"version": 1, "weight": 90}, {"version": 2, "weight": 10}]
    body = {"split": split, "affinity": "X-User", "canary": {"version": 2, "max_error_rate": 0.02}}
    assert live.client.put(f"/v1/tasks/{task}/aliases/stable", json=body).status_code == 200
    page = open_page(live, f"tasks/{task}")
    page.get_by_text("Version 2 is a canary: 0 requests lately").wait_for()
    page.get_by_role("button", name="Change stable").click()
    page.get_by_role("slider", name="Share of version 1").focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Save").click()
    said(page, f"{task}: stable is set.")
    rollout = live.client.get(f"/v1/tasks/{task}").json()["rollouts"]["stable"]
    assert (rollout["affinity"], rollout["canary"]["version"]) == ("X-User", 2)
    assert aliases(live, task)["stable"][0] == {"version": 1, "weight": 89}


def test_aliases_are_made_and_deleted(live: Live, open_page):
    task = two_versions(live)
    page = open_page(live, f"tasks/{task}")
    page.get_by_role("button", name="New alias").click()
    form = page.get_by_role("form", name="New alias")
    form.get_by_label("Name of the alias").fill("not/allowed")
    form.get_by_role("button", name="Save").click()
    form.get_by_role("alert").wait_for()
    form.get_by_label("Name of the alias").fill("canary")
    form.get_by_role("button", name="Save").click()
    page.get_by_text(f"{task}@canary", exact=True).wait_for()
    assert aliases(live, task) == {"stable": 2, "canary": 2}
    page.get_by_role("button", name="Delete the alias canary").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete the alias").click()
    page.get_by_text(f"{task}@canary", exact=True).wait_for(state="detached")
    assert aliases(live, task) == {"stable": 2}


def test_versions_are_made_stable_downloaded_and_deleted(live: Live, open_page, assert_accessible):
    task = two_versions(live)
    page = open_page(live, f"tasks/{task}")
    page.get_by_role("button", name="Make stable version 1").click()
    said(page, f"{task}: stable points at version 1.")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download version 2").click()
    with tarfile.open(download.value.path()) as archive:
        assert set(archive.getnames()) == set(adapter_files(live.backbone, seed=2))
    page.get_by_role("button", name="Delete version 1").click()
    dialog = page.get_by_role("dialog")
    assert_accessible(page)
    dialog.get_by_text("The server refuses it while an alias points at it: stable.").wait_for()
    dialog.get_by_role("button", name="Delete version 1").click()
    said(page, "stable")  # the server's own reason
    page.get_by_role("button", name="Delete version 2").click()
    dialog.get_by_role("button", name="Delete version 2").click()
    said(page, f"Version 2 of {task} is deleted.")
    assert [version["version"] for version in live.client.get(f"/v1/tasks/{task}").json()["versions"]] == [1]


def test_pinning_and_loading(live: Live, open_page):
    task = two_versions(live)
    live.wait_loaded()
    page = open_page(live, f"tasks/{task}")
    pin = page.get_by_role("button", name=re.compile("^Pin"))
    pin.click()
    said(page, f"{task} stays in a slot.")
    assert live.client.get(f"/v1/tasks/{task}").json()["pinned"] is True
    page.get_by_role("button", name="Pinned", pressed=True).click()
    said(page, f"{task} may be evicted again.")
    page.get_by_role("button", name="Unload").click()
    page.get_by_role("button", name="Load", exact=True).click()
    said(page, f"{task} is in a slot.")
    assert live.client.get(f"/v1/tasks/{task}").json()["residency"] == "slot"


def test_a_task_is_deleted_once_that_is_confirmed(live: Live, open_page):
    task = two_versions(live)
    page = open_page(live, f"tasks/{task}")
    page.get_by_role("button", name="Delete the task").wait_for()
    tab_to(page, "Delete the task")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=f"Delete {task}?")
    dialog.wait_for()
    assert focused(page) == "Keep it"
    for _ in range(4):  # the focus does not leave it for the page behind
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main, header, footer') === null")
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert focused(page) == "Delete the task"
    assert live.client.get(f"/v1/tasks/{task}").status_code == 200
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Delete the task").click()
    said(page, f"{task} is deleted.")
    page.get_by_role("heading", name="Tasks", exact=True).wait_for()
    assert live.client.get(f"/v1/tasks/{task}").status_code == 404


# ---- keys


def test_a_server_with_keys_asks_for_one(guarded: Live, open_page, assert_accessible):
    page = open_page(guarded)
    alert = page.get_by_role("alert").filter(has_text="a key is needed")
    alert.wait_for()
    assert_accessible(page)
    alert.get_by_role("button", name="Enter a key").click()
    page.get_by_role("dialog").get_by_label("API key or admin key").fill(READER)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="shown", exact=True).wait_for()
    assert alert.count() == 0
    assert READER not in page.url
    assert page.evaluate("Object.values(localStorage).concat(document.cookie).join()").count(READER) == 0
    page.reload()
    page.get_by_role("link", name="shown", exact=True).click()  # the tab remembers it
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("alert").filter(has_text="this key may not do this; one with the scope 'admin' may").wait_for()
    page.get_by_role("button", name="Key set").click()
    page.get_by_role("dialog").get_by_label("API key or admin key").fill(ADMIN)
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("button", name="Pin").click()
    said(page, "shown stays in a slot.")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download version 1").click()
    assert download.value.suggested_filename == "shown-1.tar.gz"
    page.get_by_role("button", name="Key set").click()
    page.get_by_role("button", name="Forget the key").click()
    alert.wait_for()
    assert ADMIN not in page.evaluate("Object.values(sessionStorage).join()")


def test_an_upload_needs_an_admin_key(guarded: Live, open_page, tmp_path: Path):
    task = fresh()
    page = open_page(guarded, f"upload/{task}")
    page.get_by_role("button", name="Key", exact=True).click()
    page.get_by_label("API key or admin key").fill(READER)
    page.keyboard.press("Enter")
    page.get_by_label("Files of the adapter").set_input_files(written(adapter_files(guarded.backbone), tmp_path))
    page.get_by_role("button", name=re.compile("^Upload")).click()
    wait_until(lambda: page.get_by_role("alert").filter(has_text="this key may not do").count() == 2, "both say it")
    page.get_by_role("button", name="Enter a key").click()
    page.get_by_label("API key or admin key").fill(ADMIN)
    page.keyboard.press("Enter")
    page.get_by_role("button", name=re.compile("^Upload")).click()
    page.get_by_text("Checked, and in the store.").wait_for()
    settled(page)
