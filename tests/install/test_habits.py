"""The files that other programs read: git's hooks, and the forms for issues."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def test_the_hooks_are_the_parts_of_make_lint():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    targets = {hook["entry"].split()[-1] for hook in hooks}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    lint = next(line for line in makefile if line.startswith("lint:"))
    assert targets == set(lint.partition(":")[2].partition("#")[0].split())
    assert {repo["repo"] for repo in config["repos"]} == {"local"}, "nothing is fetched when a commit is made"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_a_form_needs(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    assert any(part.get("validations", {}).get("required") for part in fields)
    assert {part["type"] for part in form["body"]} <= {"markdown", "input", "textarea", "dropdown", "checkboxes"}
