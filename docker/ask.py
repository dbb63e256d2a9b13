#!/usr/bin/env python3
"""Ask a running server one mixed question and check the answer.

    python3 docker/ask.py http://127.0.0.1:8000 --key KEY

Lists the tasks, asks all of them in one request, and fails unless every task answered and at
least two methods shared one batch. With `--copy NAME` one of the tasks is downloaded and
uploaded as NAME first; with `--expect NAME` that task must be there. Uses the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

SENTENCES = [
    "The new train to Lyon left on time, and Marie Curie would have liked the seats.",
    "I waited an hour for cold soup. Never again.",
]
QUESTION = {
    "text": "Where does the train go?",
    "text_pair": "The new train to Lyon left Paris at nine in the morning.",
}

# An answer of a kind holds at least one of these fields.
FIELDS = {
    "classify": {"label", "scores"},
    "tokens": {"tokens", "entities"},
    "regress": {"value"},
    "rerank": {"score"},
    "span": {"answer"},
    "embed": {"embedding"},
    "generate": {"text"},
}


class Failed(Exception):
    """The check did not pass; the message says why."""


# No proxy: the server is on this machine.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, body: Any = None, timeout: float = 60.0, key: str = "") -> Any:
    """The JSON answer of a GET, or of a POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with opener.open(request, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read(2000).decode(errors="replace")
        raise Failed(f"{request.get_method()} {url}: {error.code}: {text}") from None
    except (OSError, ValueError) as error:
        raise Failed(f"{request.get_method()} {url}: {error}") from None


def list_tasks(base: str, timeout: float, key: str) -> list[dict[str, Any]]:
    """Every task, over all pages."""
    tasks: list[dict[str, Any]] = []
    query: dict[str, str] = {"limit": "100"}
    while True:
        page = call(f"{base}/v1/tasks?{urllib.parse.urlencode(query)}", timeout=timeout, key=key)
        tasks += page["data"]
        if not page.get("next_page_token"):
            return tasks
        query["page_token"] = page["next_page_token"]


def question(task: dict[str, Any]) -> dict[str, Any]:
    """What one task is asked."""
    kind = task.get("kind")
    asked: dict[str, Any] = {"task": task["name"], "inputs": SENTENCES}
    if kind in ("span", "rerank"):
        asked["inputs"] = [QUESTION]
    elif kind == "generate":
        asked["inputs"] = SENTENCES[:1]
        asked["parameters"] = {"max_new_tokens": 4}
    return asked


def check_item(asked: dict[str, Any], task: dict[str, Any], item: dict[str, Any]) -> None:
    """One task's part of the answer."""
    name = task["name"]
    if item.get("error"):
        raise Failed(f"task {name}: {json.dumps(item['error'])}")
    if item.get("task") != name:
        raise Failed(f"task {name}: the answer in its place is for {item.get('task')!r}")
    outputs = item.get("outputs") or []
    if len(outputs) != len(asked["inputs"]):
        raise Failed(f"task {name}: {len(asked['inputs'])} inputs, {len(outputs)} outputs")
    fields = FIELDS.get(str(task.get("kind")), set())
    for output in outputs:
        if fields and not fields & output.keys():
            raise Failed(f"task {name}: no {' or '.join(sorted(fields))} in {json.dumps(output)[:200]}")


def count(value: Any) -> int:
    """A number of methods or tasks: given as the number, or as their list."""
    return len(value) if isinstance(value, (list, dict)) else int(value or 0)


def brief(output: dict[str, Any]) -> str:
    """One output in a few words."""
    if "label" in output:
        return f"{output['label']} {output.get('score', 0):.3f}"
    if "value" in output:
        return f"{output['value']:.3f}"
    if "embedding" in output:
        return f"a vector of {len(output['embedding'])} numbers"
    if "entities" in output:
        return f"{len(output['entities'])} entities"
    return json.dumps(output)[:60]


def copy_task(base: str, name: str, timeout: float, key: str) -> None:
    """Downloads the version that answers for one of the tasks, and uploads it as another."""
    tasks = list_tasks(base, timeout, key)
    if not tasks:
        raise Failed("the server has no task")
    task = tasks[0]
    source = f"{base}/v1/tasks/{task['name']}/versions/{task['version']}/download"
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with opener.open(urllib.request.Request(source, headers=headers), timeout=timeout) as answer:
            archive = answer.read()
        mark = "-----a-part-of-the-upload-----"
        head = f'--{mark}\r\nContent-Disposition: form-data; name="archive"; filename="a.tar.gz"\r\n\r\n'
        body = head.encode() + archive + f"\r\n--{mark}--\r\n".encode()
        headers["Content-Type"] = f"multipart/form-data; boundary={mark}"
        upload = urllib.request.Request(f"{base}/v1/tasks/{name}/versions", data=body, headers=headers)
        with opener.open(upload, timeout=timeout) as answer:
            print(f"{task['name']} is also {name}: {answer.status}")
    except urllib.error.HTTPError as error:
        raise Failed(f"{error.url}: {error.code}: {error.read(2000).decode(errors='replace')}") from None
    except OSError as error:
        raise Failed(f"{source}: {error}") from None


def ask(base: str, tries: int, timeout: float, key: str, expected: str = "") -> None:
    """The whole check."""
    tasks = list_tasks(base, timeout, key)
    if not tasks:
        raise Failed("the server has no task")
    if expected and expected not in {task["name"] for task in tasks}:
        raise Failed(f"there is no task {expected!r}")
    asked = [question(task) for task in tasks]

    for attempt in range(tries):
        if attempt:
            time.sleep(0.2)
        results = call(f"{base}/v1/predict", {"requests": asked}, timeout, key)["results"]
        if len(results) != len(asked):
            raise Failed(f"{len(asked)} questions, {len(results)} answers")
        for one, task, item in zip(asked, tasks, results, strict=True):
            check_item(one, task, item)
        batches = [item.get("batch") or {} for item in results]
        most = max(batches, key=lambda batch: count(batch.get("methods")))
        # Answers come in whatever batches were formed; a busy machine may need a second try.
        if count(most.get("methods")) >= 2:
            break
    else:
        raise Failed(f"no two methods shared a batch in {tries} tries; the last batches: {json.dumps(batches)}")

    width = max(len(task["name"]) for task in tasks)
    for task, item in zip(tasks, results, strict=True):
        print(f"  {task['name']:<{width}}  {task.get('method', ''):<10}  {brief(item['outputs'][0])}")
    print(
        f"{len(tasks)} tasks answered; one batch held {most.get('sequences')} sequences "
        f"of {count(most.get('tasks'))} tasks and {count(most.get('methods'))} methods"
    )


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Ask a running server one mixed question and check the answer.")
    parser.add_argument("url", help="where the server listens, such as http://127.0.0.1:8000")
    parser.add_argument("--tries", type=int, default=5, help="how often to ask for a shared batch (default 5)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one answer (default 60)")
    parser.add_argument("--key", default="", help="a key that may ask, where the server wants one")
    parser.add_argument("--admin-key", default="", help="a key that may upload (default: the other one)")
    parser.add_argument("--copy", default="", metavar="NAME", help="upload one of the tasks under this name first")
    parser.add_argument("--expect", default="", metavar="NAME", help="a task that must be there")
    args = parser.parse_args()
    base = args.url.rstrip("/")
    try:
        if args.copy:
            copy_task(base, args.copy, args.timeout, args.admin_key or args.key)
        ask(base, args.tries, args.timeout, args.key, args.expect or args.copy)
    except Failed as error:
        print(f"ask: {error}", file=sys.stderr)
        return 1
    except (KeyError, TypeError, AttributeError) as error:
        print(f"ask: the answer has not the expected form: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
