"""Dependencies point one way, and what is to be known of a method, a kind or a format stands in one place
(docs/architecture.md)."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import manyhats
import pytest
from manyhats.core.kinds.registry import KINDS
from manyhats.methods.registry import METHODS

ROOT = Path(manyhats.__file__).parent

# What the modules of each package may import from the others, for their types alone or inside a function too.
ALLOWED = {
    "backbone": {"supported"},
    "kernels": set(),
    "methods": {"backbone", "kernels"},
    "core": {"methods", "backbone"},
    "formats": {"core", "methods", "kernels", "backbone"},
    "engine": {"core", "methods", "kernels", "backbone", "supported"},
    "registry": {"formats", "core", "methods", "backbone"},
    "training": {"engine", "core", "formats", "methods", "backbone"},
    "serving": {"engine", "core", "registry", "formats", "methods", "backbone", "observability"},
    "access": {"core", "registry", "settings"},
    "runtime": {
        *("access", "serving", "engine", "core", "kernels", "registry", "formats", "methods", "backbone", "settings"),
        "observability",
    },
    "api": {"access", "runtime", "serving", "core", "registry", "backbone", "settings", "observability"},
    "scale": {"access", "api", "core", "engine", "observability", "registry", "runtime", "settings"},
    "bench": {"runtime", "engine", "core", "kernels", "registry", "methods", "backbone"},
    "commands": {
        "access",
        *("bench", "runtime", "settings", "training", "engine", "core", "kernels", "registry", "formats", "methods"),
        *("backbone", "scale", "supported"),
    },
    "observability": {"core"},
    "supported": set(),
    "settings": {"setting_values"},
    "setting_values": set(),
    "disk": set(),
    "errors": set(),
    "messages": set(),
    "own_pages": set(),
}
EVERYWHERE = {"disk", "errors", "messages", "own_pages", "_version"}
MOST_LINES = 400
# What of `methods` is for all: the rest are the methods' own modules.
OF_ALL_METHODS = {path.stem for path in (ROOT / "methods").glob("*.py")} - {
    type(method).__module__.split(".")[2] for method in METHODS.values()
}


def name_of(path: Path) -> str:
    parts = ["manyhats", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of manyhats that one imports: when it runs, inside functions, and for types alone."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "manyhats":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return frozenset(found - {module, "manyhats"})


def package(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_imports_only_what_lies_below(name: str) -> None:
    own = [module for module in MODULES if package(module) == name]
    assert own
    for module in own:
        strangers = {package(other) for other in imports(module)} - ALLOWED[name] - EVERYWHERE - {name}
        assert not strangers, f"{module} imports {sorted(strangers)}"


def test_every_package_is_in_the_table() -> None:
    packages = {p.name for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert packages <= set(ALLOWED)


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({module: imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_module_has_grown_past_its_concept() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert not {module: lines for module, lines in lengths.items() if lines > MOST_LINES}


def compared(source: ast.Module, attribute: str) -> Iterator[str]:
    """The texts that something called `attribute`, a variable or a field, is compared with."""
    for node in ast.walk(source):
        subject, others = None, []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            subject = next((side for side in sides if _called(side, attribute)), None)
            others = sides
        elif isinstance(node, ast.Match):
            subject = node.subject if _called(node.subject, attribute) else None
            others = [case.pattern for case in node.cases]
        if subject is not None:
            for other in others:
                yield from (
                    leaf.value
                    for leaf in ast.walk(other)
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                )


def _called(node: ast.expr, name: str) -> bool:
    return (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)


@pytest.mark.parametrize(("attribute", "names", "place"), [
    ("method", METHODS, "manyhats.methods"),
    ("kind", KINDS, "manyhats.core.kinds"),
])  # fmt: skip
def test_nothing_else_asks_for_one_by_name(attribute: str, names: dict[str, object], place: str) -> None:
    """What a method or a kind is asked for is an attribute of it, so that a new one is a module and a line."""
    asked = {
        module: found
        for module in MODULES
        if not module.startswith(place) and (found := set(compared(tree(module), attribute)) & names.keys())
    }
    assert not asked


def test_asking_by_name_would_be_found() -> None:
    """Else the test above would hold of anything."""
    assert set(compared(ast.parse('x.method == "lora"'), "method")) == {"lora"}
    assert set(compared(ast.parse('kind in ("span", "embed")'), "kind")) == {"span", "embed"}


def test_only_methods_import_a_method() -> None:
    for module in MODULES:
        if package(module) == "methods":
            continue
        own = {
            other
            for other in imports(module)
            if other.startswith("manyhats.methods.") and other.split(".")[2] not in OF_ALL_METHODS | {"libraries"}
        }
        assert not own, f"{module} imports {sorted(own)}"


# `manyhats convert` has PEFT itself merge what is read in no form here, and reads the head beside it.
CONVERTERS = {"manyhats.commands.differences": {"peft"}}


def test_only_the_registry_of_formats_imports_a_format() -> None:
    folders = {p.name for p in (ROOT / "formats").iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert folders
    for module in MODULES:
        if module == "manyhats.formats.registry":
            continue
        own = module.split(".")[2] if module.startswith("manyhats.formats.") else ""
        strangers = {
            other
            for other in imports(module)
            if other.startswith("manyhats.formats.")
            and other.split(".")[2] in folders - {own} - CONVERTERS.get(module, set())
        }
        assert not strangers, f"{module} imports {sorted(strangers)}"
