"""Every fenced block is checked by something, and what cannot be run at least names what is there."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from manyhats.cli import app
from manyhats.core.answered import Answered
from manyhats.core.call import Call
from manyhats.core.report import BatchReport
from manyhats.methods.base import BoundComponent
from manyhats.observability.records import RequestRecord
from manyhats.observability.request_log import fields_of
from manyhats.settings import Settings
from typer.main import get_command

from tests.docs.demo import BACKBONE, RECIPE, STORE
from tests.docs.handled import COMMANDS, DATA, How, commands, data_check, how
from tests.docs.pages import ROOT, Block, blocks, pages, text

EVERY = [block for page in pages() for block in blocks(page)]


@pytest.mark.parametrize("block", EVERY, ids=str)
def test_every_block_is_handled(block: Block) -> None:
    assert how(block) in How


@pytest.mark.parametrize(("language", "content"), [("", "manyhats serve\n"), ("json", "{}\n"), ("toml", "a = 1\n")])
def test_a_block_that_nobody_checks_is_refused(language: str, content: str) -> None:
    with pytest.raises(ValueError, match="nobody checks this block"):
        how(Block("README.md", language, content, 0, 1))


def test_an_output_without_its_snippet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Block("README.md", "text", "an output\n", 0, 1)
    monkeypatch.setattr("tests.docs.handled.blocks", lambda page: (alone,))
    with pytest.raises(ValueError, match="nobody checks this block"):
        how(alone)


def test_a_block_that_nothing_names_is_run() -> None:
    assert how(Block("README.md", "console", "$ .venv/bin/manyhats anything\n", 0, 1)) is How.QUICK


def test_no_entry_is_left_over() -> None:
    """Each pattern decides about a block, and each check has one."""
    commands = [command for block in EVERY if block.language in ("console", "sh") for command, _ in block.steps]
    commands += [block.content for block in EVERY if block.language == "python"]
    for pattern, _, _ in COMMANDS:
        assert any(re.search(pattern, command) for command in commands), f"no block has {pattern}"
    for page, mark, _ in DATA:
        assert any(block.page == page and mark in block.content for block in EVERY), f"{page} has no {mark}"


def makefile() -> dict[str, str]:
    """The Makefile's targets and their recipes, with the variables' defaults in place."""
    content = (ROOT / "Makefile").read_text()
    values = dict(re.findall(r"^([A-Z_]+)\s*[?:]?=[ \t]*(.*)$", content, re.MULTILINE))
    for _ in range(3):  # a default may name another variable
        content = re.sub(r"\$\(([A-Z_]+)\)", lambda found: values.get(found[1], found[0]), content)
    return dict(re.findall(r"^([a-z-]+):(?!=).*\n((?:\t.*\n)*)", content, re.MULTILINE))


def test_the_quick_server_is_started_as_make_demo_starts_it() -> None:
    assert RECIPE.format(backbone=BACKBONE, store=STORE, port=8000) in makefile()["demo"]


@pytest.mark.parametrize("command", ["make demo", *commands(How.CI)])
def test_continuous_integration_runs_it(command: str) -> None:
    """By its own name, or as a target that runs the same selection of tests and measures something beside."""
    lines = (ROOT / ".ci" / "run").read_text()
    names = re.findall(r"^[^#\n]*\b(make [a-z-]+)", lines, re.MULTILINE)
    if command == "make test" and command not in names:
        recipes = makefile()
        selection = re.search(r'-m "[^"]*"', recipes["test"])
        assert selection is not None
        names += ["make test" for name in names if selection[0] in recipes[name.removeprefix("make ")]]
    assert command in names


def static(program: str) -> list[str]:
    return [command for command in commands(How.STATIC) if command.startswith(program)]


@pytest.mark.parametrize("command", static("docker compose "))
def test_what_compose_is_told_to_start_is_there(command: str) -> None:
    words = command.split()
    assert words[2] == "up"
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {word for word in words[3:] if not word.startswith("--")} <= set(services)


@pytest.mark.parametrize("command", static("kubectl "))
def test_what_is_put_into_a_secret_is_what_the_chart_takes(command: str) -> None:
    assert command.startswith("kubectl create secret generic manyhats-")
    values = yaml.safe_load((ROOT / "deploy/helm/manyhats/values.yaml").read_text())
    taken = {values["keys"]["apiKeysKey"], values["keys"]["adminKeysKey"], values["database"]["key"]}
    assert set(re.findall(r"--from-literal=([\w-]+)=", command)) <= taken


@pytest.mark.parametrize("command", static("helm "))
def test_the_chart_takes_what_helm_is_told(command: str) -> None:
    helm = shutil.which("helm") or shutil.which("helm", path=str(ROOT / "build" / "helm"))
    if helm is None:
        pytest.skip("needs helm: make build/helm/helm")
    words = re.sub(r"^helm (?:upgrade --install|install) ", "template ", command.replace("\\\n", " ")).split()
    done = subprocess.run([helm, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [one for one in static("docker ") if not one.startswith("docker compose ")])
def test_what_a_container_command_names_is_there(command: str) -> None:
    file = (ROOT / "Dockerfile").read_text()
    words = command.split()
    assert words[1] in ("build", "run")
    assert words[-1] == ("." if words[1] == "build" else "manyhats")
    assert ("--build-arg" in words) == ("manyhats:cuda" in words)
    for port in re.findall(r"-p \S*?:(\d+)(?= )", command):
        assert f"\nEXPOSE {port}\n" in file
    variables = set(re.findall(r"-e MANYHATS_(\w+)=", command))
    assert variables <= {name.upper() for name in Settings.model_fields}
    if words[1] == "run":  # it listens on all addresses
        assert "API_KEYS" in variables
        assert "\n    MANYHATS_HOST=0.0.0.0 " in file
        assert "MANYHATS_ALLOW_UNAUTHENTICATED=" not in file.partition("ENV PATH")[2]
    for folder in re.findall(r"-v \w+:(\S+)", command):
        assert f"\nVOLUME {folder}\n" in file


@pytest.mark.parametrize("command", commands(How.CLUSTER))
def test_what_a_cluster_is_started_with_is_there(command: str) -> None:
    known = {option for one in get_command(app).commands["scale"].params for option in one.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"--[a-z-]+", command)) <= known


def test_build_arguments_are_those_of_the_dockerfile() -> None:
    arguments = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    named = {name for page in pages() for name in re.findall(r"--build-arg (\w+)", (ROOT / page).read_text())}
    assert named
    assert named <= arguments


# ---- blocks that hold no commands


def excerpt(block: Block) -> None:
    """Lines of what the tests run, with `...` for some left out."""
    source = (ROOT / "tests" / "extensions.py").read_text()
    pieces = [piece for piece in re.split(r"^ *\.\.\.\n", block.content, flags=re.MULTILINE) if piece.strip()]
    assert pieces
    for piece in pieces:
        lines = textwrap.dedent(piece)
        assert any(textwrap.indent(lines, " " * indent) in source for indent in (0, 4, 8)), f"{block}:\n{piece}"


def request_line(block: Block) -> None:
    """The fields of a line of the log of requests, in their order."""
    batch = BatchReport(7, {"spam": 2}, ("lora",), 3, 20, 0.004, ended=10.006)
    item = Answered("spam", 10.0, 0.008, batch=batch)
    record = RequestRecord(Call("r1", answers=[item]), "POST", "/", 10.0, 10.1, 0.0, f"00-{'1' * 32}-{'2' * 16}-01")
    shown = json.loads(block.content)
    assert list(shown) == list(fields_of(record))
    assert list(shown["batch"]) == list(fields_of(record)["batch"])


def packages(block: Block) -> None:
    """Each package of the server with what it holds, and nothing else."""
    names = set(re.findall(r"^([a-z]+)  ", block.content, re.MULTILINE))
    assert names == {folder.parent.name for folder in (ROOT / "server" / "manyhats").glob("*/__init__.py")}


def targets(block: Block) -> None:
    """Each command is a target, or a program of the repository."""
    for line in block.content.splitlines():
        if found := re.match(r"make ([a-z-]+)", line):
            assert found[1] in makefile(), line
        else:
            assert (ROOT / line.split()[0]).is_file(), line


def library(block: Block) -> None:
    """Lines of what made a folder that the page then uploads, with a library that is not installed here."""
    made = {line.strip() for line in (ROOT / "tests/fixtures/brought/make.py").read_text().splitlines()}
    assert {line.strip() for line in block.content.splitlines()} <= made


CHECKS: dict[str, Callable[[Block], None]] = {
    "excerpt": excerpt,
    "library": library,
    "packages": packages,
    "request line": request_line,
    "targets": targets,
}


@pytest.mark.parametrize("block", [b for b in EVERY if data_check(b) in CHECKS], ids=str)
def test_data(block: Block) -> None:
    CHECKS[str(data_check(block))](block)


def test_the_fields_that_a_method_may_bind_are_those_that_there_are() -> None:
    rows = re.findall(r"^ *\| (`.*?) \| ", (ROOT / "docs/extending.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named
    assert named <= {field.name for field in dataclasses.fields(BoundComponent)}


# ---- commands in the running text


def inline() -> list[tuple[str, str]]:
    """What stands between backquotes, with its page."""
    fences = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
    return [(page, span) for page in pages() for span in re.findall(r"`([^`\n]+)`", fences.sub("", text(page)))]


def test_make_targets_in_the_text_exist() -> None:
    named = {(page, found[1]) for page, span in inline() if (found := re.match(r"make ([a-z-]+)", span))}
    assert named
    assert not {(page, target) for page, target in named if target not in makefile()}


# Options of vLLM and LoRAX, on the pages for those who come from there.
OF_OTHERS = {"--enable-lora", "--lora-modules", "--max-loras", "--max-cpu-loras", "--max-lora-rank"} | {
    *("--preloaded-adapter-ids", "--max-active-adapters", "--adapter-memory-fraction")
}


def test_commands_and_options_in_the_text_exist() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]

    def options_of(command: Any) -> set[str]:
        """Its own, and those of the commands below it."""
        below = getattr(command, "commands", {}).values()
        return {option for p in command.params for option in p.opts}.union(*map(options_of, below))

    everything = set().union(*map(options_of, commands.values()))
    everything |= {"--help", "--version", "--build-arg", "--vllm", "--no-deps"} | OF_OTHERS
    for page, span in inline():
        if found := re.search(r"\bmanyhats (?!-)([a-z]+)", span):
            assert found[1] in commands, f"{page}: {span}"
            allowed = options_of(commands[found[1]]) | {"--help"}
        elif span.startswith("--"):
            allowed = everything
        else:
            continue
        options = re.findall(r"(?<!\S)--[a-z-]+", span)
        assert set(options) <= allowed, f"{page}: {span}"


def test_files_in_the_text_exist() -> None:
    """Paths that begin with a folder of the repository."""
    tops = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"build", "dist"}
    for page, span in inline():
        path = span.removeprefix(".venv/bin/python ").split(" ")[0].partition("::")[0]
        if "/" in path and path.split("/")[0] in tops and not re.search(r"[<>{}*]", path):
            assert (ROOT / path).exists(), f"{page}: {span}"


def test_programs_are_called_where_they_are() -> None:
    """A reader who has not activated the environment can run each line."""
    for block in EVERY:
        if block.language in ("console", "sh"):
            for command, _ in block.steps:
                assert not re.search(r"(^|[|;&] *)(manyhats|pip|python|accelerate)\b", command), f"{block}: {command}"
    for page, span in inline():
        assert not re.match(r"(pip|python|accelerate) ", span), f"{page}: {span}"
