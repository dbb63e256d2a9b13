"""Dependencies point one way (docs/architecture.md)."""

import ast
from pathlib import Path

import manyhats
import pytest

ROOT = Path(manyhats.__file__).parent

# What the modules of each package may import from the others.
ALLOWED = {
    "backbone": {"supported"},
    "kernels": set(),
    "methods": {"backbone", "kernels"},
    "core": {"methods", "backbone"},
    "formats": {"core", "methods", "kernels", "backbone"},
    "engine": {"core", "methods", "kernels", "backbone", "supported"},
    "registry": {"formats", "core", "methods", "backbone"},
    "training": {"engine", "core", "formats", "methods", "backbone"},
    "serving": {"engine", "core", "registry", "methods", "backbone"},
    "runtime": {"serving", "engine", "core", "kernels", "registry", "formats", "methods", "backbone", "settings"},
    "api": {"runtime", "serving", "core", "registry", "backbone", "settings"},
    "commands": {"training", "engine", "core", "kernels", "registry", "formats", "methods", "backbone", "supported"},
    "observability": set(),
    "supported": set(),
    "settings": set(),
    "disk": set(),
    "errors": set(),
    "messages": set(),
}
EVERYWHERE = {"disk", "errors", "messages", "_version"}


def imports(path: Path) -> set[str]:
    """The packages of manyhats that a module imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "manyhats":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_only_what_lies_below(package):
    place = ROOT / package
    files = sorted(place.rglob("*.py")) if place.is_dir() else [ROOT / f"{package}.py"]
    assert files
    for path in files:
        strangers = imports(path) - ALLOWED[package] - EVERYWHERE - {package}
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


def test_every_package_is_in_the_table():
    packages = {p.name for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert packages <= set(ALLOWED)


def test_no_module_has_grown_past_its_concept():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long
