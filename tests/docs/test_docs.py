"""What the documentation promises is there, and what is there is documented."""

import re
from pathlib import Path

import pytest
from manyhats.api.errors import KINDS
from manyhats.formats.contents import PICKLED, READ
from manyhats.methods.registry import METHODS

ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("status", "kind"), sorted({(status, kind) for _, status, kind in KINDS}))
def test_every_error_is_documented(status, kind):
    assert f"| {status} | `{kind}` |" in text("docs/errors.md")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_documented(name):
    assert f"| `{name}` |" in text("docs/methods.md")


@pytest.mark.parametrize("name", sorted({*(name for name in READ if not re.search(r"[*\[]", name)), *PICKLED}))
def test_every_file_that_is_read_or_refused_is_documented(name):
    if name not in ("pytorch_model_adapter_fusion.bin", "pytorch_model_embeddings.bin"):  # "any `.bin`" there
        assert f"`{name}`" in text("docs/files.md")


@pytest.mark.parametrize(
    "path", sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text(path)):
        assert ((ROOT / path).parent / target).exists(), f"{path} links to {target}"


def test_architecture_is_short():
    assert len(text("docs/architecture.md").splitlines()) < 80


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    for target in re.findall(r"make ([a-z-]+)", text("README.md")):
        assert target in targets


def test_the_tables_of_methods_are_as_generated() -> None:
    """`python -m tests.parity.matrix` writes them; `test_peft_matrix` tries every cell of the first."""
    import json

    from tests.parity import matrix

    text = (ROOT / "docs" / "methods.md").read_text()
    table = json.loads((matrix.HERE / "matrix.json").read_text())
    assert matrix.section(text, "matrix") == matrix.markdown(table)
    assert matrix.section(text, "own matrix") == matrix.own()
    assert matrix.section(text, "adapterhub matrix") == matrix.adapterhub()


# Files of an adapter's folder, and not of this repository.
ADAPTERS_FILES = r"(\d|N)_\w+/config\.json|zero_to_fp32\.py"
IMAGES_FILES = r"/usr/share/doc/.*"  # of the image


@pytest.mark.parametrize(
    "path", sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_files_that_are_named_exist(path):
    """Every `path/like/this.py`, relative to the repository or to the package."""
    if path == "CHANGELOG.md":  # names what there was
        return
    for name in re.findall(r"`([\w./-]+\.py|[\w./-]+/[\w./-]+\.(?:c|json|md|toml|txt|in))`", text(path)):
        if not re.fullmatch(f"{ADAPTERS_FILES}|{IMAGES_FILES}", name):
            assert any((folder / name).exists() for folder in (ROOT, ROOT / "server/manyhats")), f"{path}: {name}"
