"""Everything that is imported is declared: what a module needs as it loads is required, the rest in an extra."""

import ast
import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OWN = {"manyhats", "manyhats_client", "tests", "examples", "benchmarks", "scripts", "data"}
# Loaded through manyhats.training.libraries.require or by a name in a setting, where no import statement shows them.
BY_NAME = {"datasets", "pyarrow", "gguf"}
# Modules of `manyhats train` and what they need as they load; `require` says what is missing before they are imported.
TRAINING = {"training/trainer.py": {"accelerate"}}
PROGRAMS = "kernels/cuda/programs/"  # modules of programs in Triton, which are loaded where it is there


def project(name: str) -> dict:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def extras(*wanted: str) -> set[str]:
    groups = project("pyproject.toml")["optional-dependencies"]
    return names([line for extra in wanted for line in groups[extra]])


REQUIRED = names(project("pyproject.toml")["dependencies"])
CLIENT = names(project("clients/python/pyproject.toml")["dependencies"])
CLIENT_OPTIONAL = {
    name
    for lines in project("clients/python/pyproject.toml")["optional-dependencies"].values()
    for name in names(lines)
}
DISTRIBUTIONS = importlib.metadata.packages_distributions()


def modules(tree: ast.AST) -> set[str]:
    """The top names of what a tree's import statements load."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - OWN


def at_load(tree: ast.Module) -> set[str]:
    """Of these, what is loaded with the module itself: not in a function, nor for the type checker alone."""

    class Lazy(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node: ast.If) -> ast.AST | None:
            typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if typing else self.generic_visit(node)

    return modules(Lazy().visit(tree))


def packages(found: set[str]) -> dict[str, set[str]]:
    """The distributions that carry each module."""
    return {module: {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [module])} for module in found}


def strangers(found: set[str], declared: set[str]) -> list[str]:
    return sorted(module for module, carriers in packages(found).items() if not carriers & declared)


def trees(folder: str) -> dict[str, ast.Module]:
    place = ROOT / folder
    found = {str(path.relative_to(place)): ast.parse(path.read_text("utf-8")) for path in sorted(place.rglob("*.py"))}
    assert found
    return found


def test_the_server_declares_what_it_imports():
    optional = extras("train", "decoder", "jwt", "peft", "cuda", "quantized", "otel", "s3")
    for path, tree in trees("server/manyhats").items():
        assert not strangers(modules(tree), REQUIRED | optional), path
        optional_at_load = {"triton"} if path.startswith(PROGRAMS) else TRAINING.get(path, set())
        assert not strangers(at_load(tree) - optional_at_load, REQUIRED), path


def test_the_client_declares_what_it_imports():
    for path, tree in trees("clients/python/src").items():
        assert not strangers(modules(tree), CLIENT | CLIENT_OPTIONAL), path
        assert not strangers(at_load(tree), CLIENT), path


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks"])
def test_what_a_contributor_runs_is_installed_by_dev(folder):
    alone = {
        canonicalize_name(Requirement(line).name)
        for raw in (ROOT / "requirements/alone.txt").read_text(encoding="utf-8").splitlines()
        if (line := raw.partition("#")[0].strip())
    }
    declared = (
        REQUIRED
        | extras("train", "decoder", "jwt", "peft", "cuda", "quantized", "otel", "s3")
        | extras("clients", "notebook", "test", "docs", "dev")
        | alone
    )
    # A benchmark runs as a program, which finds what lies beside it by its bare name.
    beside = {path.stem for path in (ROOT / folder).glob("*.py")} if folder == "benchmarks" else set()
    for path, tree in trees(folder).items():
        if path.startswith("fixtures/") or path == "peer_worker.py":
            continue  # runs in an environment of its own, with requirements beside it
        assert not strangers(modules(tree) - beside, declared), path


def test_nothing_is_required_that_no_module_uses():
    used = set().union(*(modules(tree) for tree in trees("server/manyhats").values()))
    carriers = set().union(*packages(used).values())
    # What tokenizers does is asked of transformers' tokenizers, and uvicorn imports uvloop; the bounds are ours.
    assert REQUIRED - carriers == {"tokenizers", "uvloop"}
    assert extras("train", "decoder", "peft") - carriers - REQUIRED == BY_NAME
    used = set().union(*(modules(tree) for tree in trees("clients/python/src").values()))
    assert set().union(*packages(used).values()) == CLIENT | CLIENT_OPTIONAL


def test_dev_has_every_extra_that_the_tests_need():
    groups = project("pyproject.toml")["optional-dependencies"]
    own = [Requirement(line) for line in groups["dev"] if Requirement(line).name == "manyhats"]
    assert own[0].extras == set(groups) - {"dev", "release", "audit"}
