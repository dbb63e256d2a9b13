"""What checks our code and the packages that it needs, and what is left out of that."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import audit

ROOT = Path(__file__).resolve().parents[2]
READ = ("server", "clients/python/src", "scripts")  # what bandit reads


def test_bandit_reads_all_that_is_installed_or_run() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"bandit --quiet --configfile pyproject.toml --recursive {' '.join(READ)}" in makefile


def test_what_is_left_out_has_a_reason() -> None:
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    skips = tomllib.loads(config)["tool"]["bandit"]["skips"]
    for name in skips:
        assert re.search(rf'"{name}",  # \w.{{20,}}', config), f"{name} is left out without a reason"
    for folder in READ:
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text(encoding="utf-8").splitlines():
                if "# nosec" in line:
                    assert re.search(r"# nosec B\d{3}  # \w.{5,}", line), f"{path.name}: {line.strip()}"


# Answers as pip-audit's, by the service that is asked.
FAKE = """#!{python}
import json, sys
service = sys.argv[-1]
answers = {answers}
if service not in answers:
    sys.exit("no such host")
print(json.dumps({{"dependencies": answers[service]}}))
"""
WHOLE = {"name": "torch", "version": "2", "vulns": []}
FAULTY = {"name": "jinja2", "version": "3", "vulns": [{"id": "X-1", "fix_versions": ["4"]}]}
UNKNOWN = {"name": "torch", "version": "2", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ({"osv": [WHOLE]}, 0, "1 packages asked about; 0 advisories"),
        ({"pypi": [WHOLE, FAULTY]}, 1, "jinja2 3: X-1, fixed in ['4']"),
        ({"osv": [UNKNOWN], "pypi": [WHOLE]}, 0, "1 packages asked about"),
        ({"osv": [UNKNOWN]}, 2, "nothing is known of"),
        ({}, 2, "no service of advisories answers"),
    ],
)
def test_what_is_known_of_the_packages(tmp_path: Path, answers: dict, code: int, says: str) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(FAKE.format(python=sys.executable, answers=answers))
    program.chmod(0o755)
    run = subprocess.run(
        [sys.executable, ROOT / "scripts/audit.py", program], capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stderr
    assert says in run.stdout


def test_every_package_is_asked_about() -> None:
    wanted = audit.pins(ROOT)
    assert len(wanted) > 100
    assert all("==" in line for line in wanted)
    assert {line.partition("==")[0] for line in wanted} >= {"torch", "pip", "uv", "starlette", "httptools"}


def test_the_image_lists_what_it_holds() -> None:
    """The list is made of the environment that the image gets, with our own packages in it."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    place = re.search(r"COPY --from=sbom \S+ (\S+)", text)
    assert place is not None
    stage = text.partition("FROM wheel AS sbom")[2].partition("\nFROM ")[0]
    assert "/dist/*.whl" in stage
    assert "cyclonedx-py environment" in stage
    assert "-c /tmp/requirements/constraints.txt cyclonedx-bom" in stage
    assert place[1] in (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert place[1] in (ROOT / "docker/image-check.sh").read_text(encoding="utf-8")
