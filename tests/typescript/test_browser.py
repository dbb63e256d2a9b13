"""The TypeScript client in Chromium, where uploads go by XMLHttpRequest."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.api.live import Live, adapter_files
from tests.page.conftest import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = pytest.mark.node
__all__ = ["browser"]

FOLDER = "/typescript/"  # of the server's address; the browser has its files from the disk
IMPORTS = {
    "openapi-fetch": f"{FOLDER}node_modules/openapi-fetch/dist/index.mjs",
    "eventsource-parser/stream": f"{FOLDER}node_modules/eventsource-parser/dist/stream.js",
    "fflate": f"{FOLDER}node_modules/fflate/esm/browser.js",
    "manyhats-client": f"{FOLDER}dist/index.js",
}
PAGE = f"""<!doctype html><title>A page</title>
<script type="importmap">{json.dumps({"imports": IMPORTS})}</script>
<script type="module">window.manyhats = await import("manyhats-client");</script>"""
USE = """async ({files, key, task}) => {
    const {Client, NotFound, BadRequest} = window.manyhats;
    const client = new Client({apiKey: key});
    const sent = [];
    const bytes = Object.entries(files).map(([name, text]) => [
        name, Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]);
    const made = await client.upload("browsed", Object.fromEntries(bytes), {
        onProgress: ({sent: some, total}) => sent.push(some / total)});
    const nested = Object.fromEntries(bytes.map(([name, data]) => ["inner/" + name, data]));
    const same = await client.upload("browsed", nested, {onProgress: () => {}});
    const refused = await client.upload("browsed", {"a.txt": "a"}, {onProgress: () => {}}).catch((e) => e);
    const missing = await client.predict("nobody", "w1").catch((e) => e);
    const stop = new AbortController();
    const texts = [];
    const stream = client.generateStream(task, "w1", {max_new_tokens: 4, ignore_eos: true});
    for await (const event of stream) texts.push(event.text);
    stop.abort();
    const given_up = await client.upload("browsed", Object.fromEntries(bytes), {
        signal: stop.signal, onProgress: () => {}}).catch((e) => e);
    return {
        version: made.version, same: !same.new && same.version === made.version, sent: sent.at(-1),
        refused: refused instanceof BadRequest && refused.requestId !== null,
        missing: missing instanceof NotFound, tokens: stream.answer.usage.output_tokens, texts: texts.join(""),
        text: stream.answer.outputs[0].text, given_up: given_up.name, address: client.baseUrl,
    };
}"""


def test_a_page_uploads_and_streams(browser: Browser, built: Path, writing: Live, writes: str) -> None:
    def fulfil(route: Route) -> None:
        name = route.request.url.partition(FOLDER)[2]
        if name:
            route.fulfill(body=(built / name).read_bytes(), content_type="text/javascript")
        else:
            route.fulfill(body=PAGE, content_type="text/html")

    files = {
        name: base64.b64encode(data).decode() for name, data in adapter_files(writing.backbone, kind="generate").items()
    }
    address = f"http://{writing.host}:{writing.port}"
    page = browser.new_page()
    page.route(f"**{FOLDER}**", fulfil)
    page.goto(address + FOLDER)
    page.wait_for_function("window.manyhats")
    done = page.evaluate(USE, {"files": files, "key": "may-change", "task": writes})
    page.close()
    text = done.pop("text")
    assert done == {
        "version": 1, "same": True, "sent": 1, "refused": True, "missing": True, "tokens": 4, "texts": text,
        "given_up": "AbortError", "address": address,
    }  # fmt: skip
