"""The documentation's site: it builds strictly, has every reference in full, and asks no other host for anything."""

from __future__ import annotations

import json
import re
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import manyhats_client
import pytest
from manyhats.cli import app
from typer.main import get_command

from tests.docs.pages import ROOT
from tests.page.conftest import browser  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
from mkdocs.commands.build import build
from mkdocs.config import load_config

from scripts import docs_hooks

# What has a browser load something, by its tag: the attribute with the address.
LOADED = dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed"), "src")
LINKED = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
OUTSIDE = re.compile(r"(https?:)?//")


class Page(HTMLParser):
    """What a page loads, the ids on it, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in LOADED and LOADED[tag] in given:
            self.loaded.append(given[LOADED[tag]])
        if tag == "link" and set(given.get("rel", "").split()) & LINKED:
            self.loaded.append(given.get("href", ""))
        self.loaded += re.findall(r"url\(['\"]?([^)'\"]+)", given.get("style", ""))
        assert "mermaid" not in given.get("class", ""), "the theme fetches what draws these from elsewhere"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it; in this process, which has loaded what commands load for their options."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # those of the libraries that build it
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    return folder


def page(site: Path, name: str) -> Page:
    return Page((site / name).read_text(encoding="utf-8"))


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for path in pages:
        loaded = page(site, str(path.relative_to(site))).loaded
        assert loaded
        assert not [address for address in loaded if OUTSIDE.match(address)], path.name
    for path in site.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import )['\"]?([^)'\"]+)", path.read_text(encoding="utf-8"))
        assert not [address for address in loaded if OUTSIDE.match(address)], path.name


def test_the_rest_reference_has_every_operation_and_model(site: Path) -> None:
    schema = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    text = page(site, "rest.html").text
    for address, methods in schema["paths"].items():
        for method in methods:
            assert f"{method.upper()} {address}" in text
    html = (site / "rest.html").read_text(encoding="utf-8")
    for name in schema["components"]["schemas"]:
        assert f'id="{name.lower()}"' in html, name


def test_the_command_line_reference_has_every_command(site: Path) -> None:
    text = page(site, "command-line.html").text
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"manyhats {name}" in text
    assert "--max-num-seqs" in text


def test_the_python_reference_has_every_public_name(site: Path) -> None:
    html = (site / "python-api.html").read_text(encoding="utf-8")
    names = set(manyhats_client.__all__) - {"__version__"}
    missing = [name for name in names if f'id="manyhats_client.{name}"' not in html]
    assert not missing, missing


@pytest.mark.parametrize(
    "words", ["serve multiple LoRA adapters", "NER", "several tasks on one text", "adapter not found", "canary"]
)
def test_what_people_search_for_is_in_the_index(site: Path, words: str) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    texts = [re.sub(r"<[^>]+>", "", f"{entry['title']} {entry['text']}") for entry in index["docs"]]
    assert any(words.lower() in text.lower() for text in texts)


def test_links_lead_to_the_site_s_pages() -> None:
    text = "[a](../CHANGELOG.md#unreleased) [b](docs/methods.md) [c](../README.md)\n```\n[d](../CHANGELOG.md)\n```\n"
    assert docs_hooks.links(text, "docs/x.md") == (
        "[a](changes.md#unreleased) [b](docs/methods.md) c\n```\n[d](../CHANGELOG.md)\n```\n"
    )
    assert docs_hooks.links("[b](docs/methods.md#a)", "CONTRIBUTING.md") == "[b](methods.md#a)"
    assert docs_hooks.links("[e](../nothing.md)", "docs/x.md") == "[e](../nothing.md)"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.browser
def test_a_browser_searches_fits_a_telephone_and_asks_nobody_else(address: str, browser: Browser) -> None:  # noqa: F811
    view = browser.new_page(viewport={"width": 390, "height": 800})
    hosts = set()
    view.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    for name in ("index", "start", "which-method", "faq", "rest", "settings", "python-api"):
        view.goto(f"{address}/{name}.html")
        assert view.evaluate("document.documentElement.scrollWidth") <= 390, name
    view.set_viewport_size({"width": 1200, "height": 800})
    view.locator("input[name=query]").first.click()
    view.keyboard.type("adapter not found")
    view.locator(".md-search-result__link", has_text="adapter not found").first.wait_for()
    view.close()
    assert hosts == {urlsplit(address).netloc}
