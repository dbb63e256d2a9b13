"""Every kind of change to a store, and what must be there after it: for servers that are killed under one."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.api.live import Files

# By task: versions with their sha256, aliases with their targets, and settings.
State = dict[str, dict[str, Any]]
Done = Callable[[State, State], bool]  # whether a change is done, by the state before and after

SETTINGS = ("labels", "template", "max_tokens", "priority", "pinned", "defaults")


def state_of(client: httpx.Client) -> State:
    """The store as the server tells it."""
    state: State = {}
    token: str | None = None
    while True:
        page = client.get("/v1/tasks", params={"limit": 1000} | ({"page_token": token} if token else {})).json()
        for row in page["data"]:
            shown = client.get(f"/v1/tasks/{row['name']}").json()
            versions = {version["version"]: version["sha256"] for version in shown["versions"]}
            settings = {name: shown[name] for name in SETTINGS}
            state[row["name"]] = {"versions": versions, "aliases": shown["aliases"], "settings": settings}
            state[row["name"]]["rollouts"] = rollouts_of(shown)
            state[row["name"]]["evaluations"] = evaluations_of(shown)
        token = page["next_page_token"]
        if token is None:
            return state


def rollouts_of(shown: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a task's roll-outs; what is counted of them is not."""
    return {
        name: [one[what] and (one[what]["version"], one[what].get("fraction")) for what in ("shadow", "canary")]
        for name, one in (shown.get("rollouts") or {}).items()
    }


def evaluations_of(shown: dict[str, Any]) -> dict[int, Any]:
    """What is kept of its versions' evaluations."""
    fields = ("metric", "value", "baseline_version", "activated")
    return {v["version"]: [v["evaluation"][f] for f in fields] for v in shown["versions"] if "evaluation" in v}


@dataclass
class Change:
    """One change that is about to be made.

    `send`: makes it. `done`: whether it has been made, by the states before and after. `touches`: the task that may
    differ. `sure`: it is made whatever happens, at the latest by the next start. `accepted`: statuses of its answer.
    `between`: whether a first step of it has been made, which is whole in itself, and no more.
    """

    send: Callable[[httpx.Client, dict[str, str]], httpx.Response | None]
    done: Done
    touches: str
    sure: bool = False
    accepted: tuple[int, ...] = (200, 201, 204)
    between: Done = lambda before, after: False


@dataclass
class Workshop:
    """What changes are made with: a client, adapters that are all different, a folder for copies, and the store."""

    client: httpx.Client
    files: Callable[[], Files]
    folders: Path
    store: Path
    chance: random.Random
    number: int = 0
    known: dict[str, Files] = field(default_factory=dict)  # by sha256

    def upload(self, task: str, files: Files, headers: dict[str, str] | None = None, **form: str) -> httpx.Response:
        """Sends an adapter."""
        parts = [("files", (name, data)) for name, data in files.items()]
        answer = self.client.post(f"/v1/tasks/{task}/versions", files=parts, data=form, headers=headers or {})
        if answer.is_success:
            self.known[answer.json()["sha256"]] = files
        return answer

    def settled(self, task: str, versions: int = 2) -> list[int]:
        """A task with so many versions at least, and `stable` on the newest. Their numbers."""
        while True:
            shown = self.client.get(f"/v1/tasks/{task}")
            found = [v["version"] for v in shown.json()["versions"]] if shown.status_code == 200 else []
            if len(found) >= versions:
                assert self.put(f"{task}/aliases/stable", {"version": found[-1]}).status_code == 200
                return found
            assert self.upload(task, self.files()).status_code == 201

    def fresh(self, stem: str) -> str:
        """A name that no task has yet; tasks of the stem that are old by now go, so that there are few."""
        self.client.delete(f"/v1/tasks/{stem}-{self.number - 5}")
        return f"{stem}-{self.number}"

    def put(self, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """Changes what lies at a path below /v1/tasks."""
        return self.client.put(f"/v1/tasks/{path}", json=body, headers=headers or {})

    def copied(self, folder: Path) -> Path:
        """A new adapter in a folder."""
        folder.mkdir(parents=True)
        for name, data in self.files().items():
            (folder / name).write_bytes(data)
        return folder


def new_task(shop: Workshop) -> Change:
    files, task = shop.files(), shop.fresh("new")

    def done(before: State, after: State) -> bool:
        return task in after and list(after[task]["aliases"]) == ["stable"] and list(after[task]["versions"]) == [1]

    return Change(lambda _, headers: shop.upload(task, files, headers), done, task)


def new_version(shop: Workshop) -> Change:
    old, files = shop.settled("grows"), shop.files()

    def done(before: State, after: State) -> bool:
        new = [number for number in after["grows"]["versions"] if number > old[-1]]
        return len(new) == 1 and after["grows"]["aliases"]["stable"] == new[0]

    return Change(lambda _, headers: shop.upload("grows", files, headers), done, "grows")


def evaluated(shop: Workshop) -> Change:
    """A version with labelled examples, which is activated or not: first it is there, then its evaluation with what
    follows from it."""
    old, files = shop.settled("judged"), shop.files()
    texts = [f"w{shop.number % 50} w{i}" for i in range(6)]
    answer = shop.client.post("/v1/tasks/judged/predict", json={"inputs": texts[0]})
    label = min(answer.json()["outputs"][0]["scores"])  # the first, which every adapter has
    rows = "\n".join(json.dumps({"text": text, "label": label}) for text in texts)
    gate = json.dumps({"max_drop": shop.number % 2})  # anything, or nothing worse

    def made(before: State, after: State) -> int | None:
        now = after["judged"]
        new = [number for number in now["versions"] if number > old[-1]]
        return new[0] if len(new) == 1 and set(before["judged"]["versions"]) < set(now["versions"]) else None

    def done(before: State, after: State) -> bool:
        if (number := made(before, after)) is None or number not in after["judged"]["evaluations"]:
            return False
        *_, stable, activated = after["judged"]["evaluations"][number]
        return stable == old[-1] and after["judged"]["aliases"]["stable"] == (number if activated else stable)

    def between(before: State, after: State) -> bool:
        same = all(before["judged"][what] == after["judged"][what] for what in ("aliases", "evaluations"))
        return same and made(before, after) is not None

    return Change(
        lambda _, headers: shop.upload("judged", files, headers, examples=rows, gate=gate),
        done,
        "judged",
        between=between,
    )


def same_bytes(shop: Workshop) -> Change:
    """The bytes of an older version: no version is made, and `stable` goes back to it."""
    first, files = "again", shop.files()
    if (made := shop.upload(first, files)).status_code != 201:
        raise AssertionError(made.text)
    number = made.json()["version"]
    assert shop.upload(first, shop.files()).status_code == 201

    def done(before: State, after: State) -> bool:
        same = before[first]["versions"] == after[first]["versions"]
        return same and after[first]["aliases"]["stable"] == number

    return Change(lambda _, headers: shop.upload(first, files, headers), done, first)


def alias(shop: Workshop) -> Change:
    numbers = shop.settled("aliased")
    target, name = shop.chance.choice(numbers), f"canary-{shop.number % 5}"
    return Change(
        lambda _, headers: shop.put(f"aliased/aliases/{name}", {"version": target}, headers),
        lambda before, after: after["aliased"]["aliases"].get(name) == target,
        "aliased",
    )


def split(shop: Workshop) -> Change:
    numbers = shop.settled("split", 3)
    weights = [{"version": number, "weight": shop.chance.randint(1, 99)} for number in numbers[:3]]

    def done(before: State, after: State) -> bool:
        return after["split"]["aliases"]["stable"] == weights

    return Change(lambda _, headers: shop.put("split/aliases/stable", {"split": weights}, headers), done, "split")


def shadow(shop: Workshop) -> Change:
    """An alias gets a version that is asked too, or a canary in its split."""
    numbers = shop.settled("shadowed", 3)
    weights = [{"version": number, "weight": shop.chance.randint(1, 99)} for number in numbers[:2]]
    body = {"split": weights, "shadow": {"version": numbers[2], "fraction": shop.chance.randint(1, 99) / 100}}
    body |= {"canary": {"version": numbers[1], "max_error_rate": 0.5}} if shop.number % 2 else {}

    expected = [(numbers[2], body["shadow"]["fraction"]), (numbers[1], None) if "canary" in body else None]

    def done(before: State, after: State) -> bool:
        found = after["shadowed"]
        return found["aliases"]["stable"] == weights and found["rollouts"]["stable"] == expected

    return Change(lambda _, headers: shop.put("shadowed/aliases/stable", body, headers), done, "shadowed")


def rollback(shop: Workshop) -> Change:
    first, second = shop.settled("back")[-2:]
    for number in (first, second):
        assert shop.put("back/aliases/stable", {"version": number}).status_code == 200
    return Change(
        lambda client, headers: client.post("/v1/tasks/back/rollback", headers=headers),
        lambda before, after: after["back"]["aliases"]["stable"] == first,
        "back",
    )


def settings(shop: Workshop) -> Change:
    shop.settled("set")
    now = shop.client.get("/v1/tasks/set").json()
    wanted = {"priority": (now["priority"] + 11) % 21 - 10, "template": f"{shop.number}: {{text}}", "max_tokens": 30}
    wanted["max_tokens"] += shop.number % 2

    def done(before: State, after: State) -> bool:
        return wanted.items() <= after["set"]["settings"].items()

    return Change(lambda _, headers: shop.put("set", wanted, headers), done, "set")


def pin(shop: Workshop) -> Change:
    shop.settled("pinned", 1)
    pinned = shop.client.get("/v1/tasks/pinned").json()["pinned"]
    action = "unpin" if pinned else "pin"
    return Change(
        lambda client, headers: client.post(f"/v1/tasks/pinned/{action}", headers=headers),
        lambda before, after: after["pinned"]["settings"]["pinned"] is not pinned,
        "pinned",
    )


def delete_version(shop: Workshop) -> Change:
    shop.settled("thins", 1)
    made = shop.upload("thins", shop.files(), activate="false")
    number = made.json()["version"]

    def done(before: State, after: State) -> bool:
        return set(before["thins"]["versions"]) - set(after["thins"]["versions"]) == {number}

    return Change(
        lambda client, headers: client.delete(f"/v1/tasks/thins/versions/{number}", headers=headers), done, "thins"
    )


def delete_task(shop: Workshop) -> Change:
    task = f"gone-{shop.number}"
    shop.settled(task)
    return Change(
        lambda client, headers: client.delete(f"/v1/tasks/{task}", headers=headers),
        lambda before, after: task not in after,
        task,
    )


def unload_lora_adapter(shop: Workshop) -> Change:
    task = f"unloaded-{shop.number}"
    shop.settled(task, 1)
    return Change(
        lambda client, headers: client.post("/v1/unload_lora_adapter", json={"lora_name": task}, headers=headers),
        lambda before, after: task not in after,
        task,
    )


def delete_alias(shop: Workshop) -> Change:
    numbers = shop.settled("unaliased")
    assert shop.put("unaliased/aliases/canary", {"version": numbers[0]}).status_code == 200
    return Change(
        lambda client, headers: client.delete("/v1/tasks/unaliased/aliases/canary", headers=headers),
        lambda before, after: list(after["unaliased"]["aliases"]) == ["stable"],
        "unaliased",
    )


def load(shop: Workshop) -> Change:
    """Into a slot, or out of it: nothing of the store changes."""
    shop.settled("loaded", 1)
    action = shop.chance.choice(("load", "unload"))
    return Change(
        lambda client, headers: client.post(f"/v1/tasks/loaded/{action}", headers=headers),
        lambda before, after: before == after,
        "loaded",
    )


def load_lora_adapter(shop: Workshop) -> Change:
    task = shop.fresh("vllm")
    folder = shop.copied(shop.folders / task)
    body = {"lora_name": task, "lora_path": str(folder)}
    return Change(
        lambda client, headers: client.post("/v1/load_lora_adapter", json=body, headers=headers),
        lambda before, after: task in after and after[task]["aliases"] == {"stable": 1},
        task,
    )


def import_folder(shop: Workshop) -> Change:
    """A folder that appears in the store, whole: it is taken in once, by this server or by the next."""
    task = shop.fresh("copied")
    ready = shop.copied(shop.folders / f"{task}.copy")

    def send(client: httpx.Client, headers: dict[str, str]) -> None:
        try:
            client.get("/healthz", headers=headers)
        finally:  # the folder comes, even where that has ended the server
            shutil.move(ready, shop.store / task)
        while client.get(f"/v1/tasks/{task}").status_code != 200:
            pass

    def done(before: State, after: State) -> bool:
        return task in after and after[task]["aliases"] == {"stable": 1} and list(after[task]["versions"]) == [1]

    return Change(send, done, task, sure=True)


KINDS: dict[str, Callable[[Workshop], Change]] = {
    "upload of a new task": new_task,
    "upload of a new version": new_version,
    "upload of the same bytes again": same_bytes,
    "evaluated upload": evaluated,
    "alias": alias,
    "split": split,
    "shadow and canary": shadow,
    "rollback": rollback,
    "settings": settings,
    "pin and unpin": pin,
    "load and unload": load,
    "deletion of a version": delete_version,
    "deletion of a task": delete_task,
    "deletion of an alias": delete_alias,
    "import of a folder": import_folder,
    "load_lora_adapter": load_lora_adapter,
    "unload_lora_adapter": unload_lora_adapter,
}
