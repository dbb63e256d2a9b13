"""A browser, servers for it to look at, and pages on which nothing may go wrong unseen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from manyhats.backbone import Backbone
from manyhats.engine.runner import Runner

from tests import tiny
from tests.api.live import Gate, Live, adapter_files, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

_CHROMIUM = "chromium"
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_STATUS = "Failed to load resource: the server responded with a status of"
ADMIN, READER = "admin-key", "reader-key"

CARD = """---
base_model: "tiny"
---

# A card

| | accuracy |
|---|---|
| this adapter | 96.0 % |

<script>document.title = "taken over"</script> and [a link](javascript:alert(1)), `code`.
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Of one module: its loop would be in the way of other tests that run one."""
    found = shutil.which(_CHROMIUM)
    if found is None:
        pytest.skip(f"needs {_CHROMIUM}")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def served(base_folder: Callable[[str], Path]) -> Backbone:
    """The tiny BERT that the servers of a module use."""
    return tiny.load(base_folder("bert"))


@pytest.fixture(scope="module")
def live(served: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with the task `shown`, of two versions, a card and a canary, and with some that were asked."""
    with serving(served, tmp_path_factory.mktemp("store")) as running:
        for seed, alias in ((1, "stable"), (2, "canary")):
            files = adapter_files(served, seed=seed, settings={"labels": ["bad", "so-so", "good"]})
            assert running.upload("shown", files | {"README.md": CARD.encode()}, alias=alias).status_code == 201
        for task, method in (("asked", "mask"), ("asked-too", "bottleneck")):
            assert running.upload(task, adapter_files(served, method)).status_code == 201
        tasks = ["shown", "asked", "asked-too"]
        assert running.client.post("/v1/predict", json={"tasks": tasks, "inputs": "w1"}).status_code == 200
        running.wait_idle()
        yield running


@pytest.fixture(scope="module")
def guarded(
    served: Backbone, base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A server with keys, and the task `shown`."""
    keys = {"api_keys": READER, "admin_keys": ADMIN}
    with serving(tiny.load(base_folder("bert")), tmp_path_factory.mktemp("store"), **keys) as running:
        running.client.headers["Authorization"] = f"Bearer {ADMIN}"
        assert running.upload("shown", adapter_files(served)).status_code == 201
        yield running


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Holds all batches of all servers until it is opened."""
    closed = Gate()
    monkeypatch.setattr(Runner, "execute", lambda runner, batch: closed.execute(runner, batch))
    yield closed
    closed.open()


@pytest.fixture
def assert_accessible() -> Callable[[Page], None]:
    """Fails where axe-core finds something that would keep people out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

    def check(page: Page) -> None:
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()

    return check


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a server's page in a window of its own.

    At the end nothing may have been said in the console, no script may have failed, and nothing may have been asked of
    another server. Answers that say no are no mistakes of the page.
    """
    faults: list[str] = []
    contexts = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(_STATUS):
            faults.append(message.text)

    def opened(live: Live, view: str = "tasks", **options: Any) -> Page:
        own = f"http://{live.host}:{live.port}/"
        context = browser.new_context(**options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith((own, "data:", "blob:")) or faults.append(request.url)
        )
        page.goto(f"{own}#/{view}")
        page.locator("h1").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults
