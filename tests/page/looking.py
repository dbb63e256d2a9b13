"""What tests do with a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page


def refresh(page: Page) -> None:
    """Has the page ask for its figures now, as when its tab is seen again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def focused(page: Page) -> str:
    """What is said of the element that has the focus: its name, or its text."""
    return page.evaluate(
        "() => { const e = document.activeElement;"
        " return e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent; }"
    ).strip()


def tab_to(page: Page, name: str, most: int = 60) -> None:
    """Presses Tab until what is called `name` has the focus."""
    seen = []
    for _ in range(most):
        page.keyboard.press("Tab")
        seen.append(focused(page))
        if seen[-1] == name:
            return
    raise AssertionError(f"Tab does not come to {name!r}, but to {seen}")


def said(page: Page, text: str) -> None:
    """Waits until the page has announced `text`."""
    page.get_by_role("status").filter(has_text=text).first.wait_for()


def settled(page: Page) -> None:
    """Waits until nothing is asked."""
    wait_until(lambda: not page.get_by_text("Loading …").count(), "everything is there")
