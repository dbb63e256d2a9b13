"""The commands for a server's tasks."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from manyhats import cli
from manyhats.commands.tasks import parse_target
from manyhats.errors import WrongUsage
from typer.testing import CliRunner

from tests.commands.asking import Server, refused, run

TASK = {"name": "spam", "aliases": {"stable": 4}, "residency": "slot"}


def asked(server: Server) -> tuple[str, str, Any]:
    """Method, path and body of the only request."""
    (request,) = server.requests
    return request.method, request.url.path, json.loads(request.content) if request.content else None


def test_tasks_shows_every_page_and_whole_names(server: Server) -> None:
    row = {"kind": "classify", "method": "lora", "version": 2, "residency": "slot", "bytes": 10}

    def answer(request: httpx.Request) -> httpx.Response:
        if "page_token" not in request.url.params:
            return httpx.Response(200, json={"data": [{"name": "a" * 128, **row}], "next_page_token": "next/+"})
        assert request.url.params["page_token"] == "next/+"
        return httpx.Response(200, json={"data": [{"name": "b", **row}], "next_page_token": None})

    server.answer = answer
    lines = run("tasks")[0].splitlines()
    assert [line.split() for line in lines] == [
        ["task", "kind", "method", "version", "residency", "bytes"],
        ["a" * 128, "classify", "lora", "2", "slot", "10"],
        ["b", "classify", "lora", "2", "slot", "10"],
    ]
    assert json.loads(run("tasks", "--search", "B", "--json")[0]) == [{"name": "a" * 128, **row}, {"name": "b", **row}]
    assert server.requests[-1].url.params["search"] == "B"


def test_show_prints_json_without_the_cards(server: Server) -> None:
    text = "[red]é[/red] " * 30
    version = {"version": 1, "sha256": "ab", "method": "lora", "kind": "classify", "bytes": 1}
    task = {"name": "spam", "template": text, "versions": [version]}
    server.answers(task | {"versions": [version | {"card": "long"}]})
    assert json.loads(run("show", "spam@canary")[0]) == task
    assert server.requests[0].url.path == "/v1/tasks/spam@canary"
    assert json.loads(run("show", "spam", "--json")[0])["versions"][0]["card"] == "long"


@pytest.mark.parametrize(("words", "body"), [([], None), (["4"], {"version": 4})])
def test_rollback_asks_for_the_version_that_was_named(server: Server, words: list[str], body: Any) -> None:
    server.answers(TASK)
    assert run("rollback", "spam", *words)[0] == "spam: stable is version 4\n"
    assert asked(server) == ("POST", "/v1/tasks/spam/rollback", body)
    assert json.loads(run("rollback", "spam", "--json")[0]) == TASK


@pytest.mark.parametrize(
    ("target", "body", "said"),
    [
        ("4", {"version": 4}, "version 4"),
        (
            "2=90,3=10",
            {"split": [{"version": 2, "weight": 90.0}, {"version": 3, "weight": 10.0}]},
            "split: version 2 with weight 90, version 3 with weight 10",
        ),
    ],
)
def test_alias_points_at_a_version_or_a_split(server: Server, target: str, body: Any, said: str) -> None:
    server.answers(TASK | {"aliases": {"canary": body.get("version") or body["split"]}})
    assert run("alias", "spam", "canary", target)[0] == f"spam: canary is {said}\n"
    assert asked(server) == ("PUT", "/v1/tasks/spam/aliases/canary", body)


def test_alias_rolls_out_and_shows(server: Server) -> None:
    split = [{"version": 2, "weight": 90}, {"version": 3, "weight": 10}]
    server.answers(TASK | {"aliases": {"stable": split}})
    run(
        "alias", "spam", "stable", "2=90,3=10", "--affinity", "X-User", "--canary", "3",
        "--max-error-rate", "0.02", "--max-latency-ratio", "1.5", "--min-requests", "50", "--window-seconds", "60",
    )  # fmt: skip
    bounds = {"max_error_rate": 0.02, "max_latency_ratio": 1.5, "min_requests": 50, "window_seconds": 60}
    body = {"split": split, "affinity": "X-User", "canary": {"version": 3, **bounds}}
    assert asked(server) == ("PUT", "/v1/tasks/spam/aliases/stable", body)
    server.requests.clear()
    run("alias", "spam", "stable", "2", "--shadow", "3=0.1")
    body = {"version": 2, "shadow": {"version": 3, "fraction": 0.1}}
    assert asked(server) == ("PUT", "/v1/tasks/spam/aliases/stable", body)
    server.answers({"task": "spam", "alias": "stable", "version": 2, "split": None, "withdrawn": None})
    server.requests.clear()
    assert json.loads(run("alias", "spam", "stable")[0])["version"] == 2
    assert asked(server)[:2] == ("GET", "/v1/tasks/spam/aliases/stable")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("2", "--shadow", "x=1"), "a shadow is a version"),
        (("2", "--shadow", "3"), "a shadow is a version"),
        (("2=1,3=1", "--max-p95-ms", "5"), "--max-p95-ms needs --canary"),
        (("--canary", "3"), "say where the alias points"),
    ],
)
def test_words_that_roll_nothing_out_are_refused(
    server: Server,
    words: tuple[str, ...],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = refused(monkeypatch, capsys, "alias", "spam", "stable", *words, code=2)
    assert reason in said
    assert server.requests == []


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "2=", "2=0", "2=x", "2=nan", "2=inf", "=3", "2=1,2=2", "2=1,", "9" * 10]
)
def test_a_target_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage, match="an alias points at"):
        parse_target(text)


def test_set_sends_json_where_a_value_is_some(server: Server) -> None:
    server.answers(TASK)
    words = ("max_tokens=48", 'labels=["no","yes"]', "pooling=mean", "template=a=b", "priority=1.5", "pinned=true")
    assert run("set", "spam", *words)[0] == "spam: set max_tokens, labels, pooling, template, priority, pinned\n"
    assert asked(server) == (
        "PUT",
        "/v1/tasks/spam",
        {
            "max_tokens": 48,
            "labels": ["no", "yes"],
            "pooling": "mean",
            "template": "a=b",
            "priority": 1.5,
            "pinned": True,
        },
    )


@pytest.mark.parametrize("verb", ["load", "unload", "pin", "unpin", "lift"])
def test_placement_by_hand(server: Server, verb: str) -> None:
    server.answers(TASK)
    assert run(verb, "spam")[0] == "spam: slot\n"
    assert asked(server)[:2] == ("POST", f"/v1/tasks/spam/{verb}")
    assert json.loads(run(verb, "spam", "--json")[0]) == TASK


@pytest.mark.parametrize(
    ("task", "path", "said"),
    [
        ("spam", "/v1/tasks/spam", "spam with all its versions"),
        ("spam@3", "/v1/tasks/spam/versions/3", "version 3 of spam"),
        ("spam@canary", "/v1/tasks/spam/aliases/canary", "the alias canary of spam"),
    ],
)
def test_delete_takes_a_task_a_version_or_an_alias(server: Server, task: str, path: str, said: str) -> None:
    server.answer = lambda request: httpx.Response(200, json=TASK) if "aliases" in path else httpx.Response(204)
    assert run("delete", task, "--yes")[0] == f"deleted {said}\n"
    assert asked(server)[:2] == ("DELETE", path)
    assert json.loads(run("delete", task, "-y", "--json")[0])["deleted"] is True


def test_delete_asks_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyhats.commands.tasks._can_be_asked", lambda: True)
    server.answer = lambda request: httpx.Response(204)
    refused = CliRunner().invoke(cli.app, ["delete", "spam"], input="n\n")
    assert refused.exit_code == 1
    assert server.requests == []
    assert "Delete spam with all its versions?" in refused.output
    assert "deleted spam" in run("delete", "spam", typed="y\n")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("delete", "spam"), "nobody can be asked whether to delete spam with all its versions; --yes says so"),
        (("delete", "base", "--yes"), "cannot be changed"),
        (("alias", "spam", "7", "3"), "is no alias"),
        (("alias", "spam", "canary", "2=0"), "an alias points at"),
        (("set", "spam", "max_tokens"), "set takes NAME=VALUE, not 'max_tokens'"),
        (("load", "a/b"), "is no task name"),
        (("show", "../metrics"), "is no task name"),
        (("show", "spam?x"), "is no task name"),
        (("rollback", "spam@3"), "is no task name"),
        (("predict", "", "x"), "is no task name"),
        (("push", "a/b", "."), "is no task name"),
        (("push", "base", "."), "cannot be changed"),
        (("push", "spam@3", "."), "is no task name"),
        (("push", "spam", ".", "--alias", "3"), "is no alias"),
    ],
)
def test_wrong_words_are_not_sent(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr("manyhats.commands.tasks._can_be_asked", lambda: False)
    assert message in refused(monkeypatch, capsys, *words, code=2)
    assert server.requests == []
