#!/usr/bin/env python3
"""Write this machine's package sources for pip into one pip.conf that a container can use.

    python3 docker/pip_settings.py FOLDER

FOLDER/pip.conf gets the sources that `pip config list` names (files and environment together),
FOLDER/volumes one line `HOST-PATH:CONTAINER-PATH:ro` for each file or folder that they point
at, and FOLDER/sources is made where the machine names any source of its own.
"""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

INSIDE = "/run/pip-settings"
SOURCES = ("index-url", "extra-index-url", "find-links", "no-index")
WANTED = (
    *SOURCES,
    *("trusted-host", "cert", "client-cert", "proxy", "constraint"),
    *("timeout", "default-timeout", "retries", "prefer-binary", "only-binary", "no-binary"),
)
CERTIFICATE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def read() -> dict[str, str]:
    """pip's own view: the environment before [install] before [global]."""
    run = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    found: dict[str, dict[str, str]] = {}
    for line in run.stdout.splitlines() if run.returncode == 0 else ():
        name, equals, value = line.partition("=")
        section, dot, key = name.rpartition(".")
        if equals and dot and key in WANTED:
            found.setdefault(section, {})[key] = str(ast.literal_eval(value))
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        settings.update(found.get(section, {}))
    if "cert" not in settings:
        for variable in CERTIFICATE_VARIABLES:
            path = os.environ.get(variable, "")
            if Path(path).is_file():
                settings["cert"] = path
                break
    return settings


def move(word: str, volumes: dict[Path, str]) -> str:
    """A word of a setting, with a path of this machine replaced by one inside the container."""
    path = Path(unquote(urlparse(word).path)) if word.startswith("file:") else Path(word)
    if not path.is_absolute() or not path.exists() or path == Path("/"):
        return word
    # The pages of an index may point at files beside its folder.
    top = path.parent if path.name == "simple" and path.parent != Path("/") else path
    inside = volumes.setdefault(top, f"{INSIDE}/{len(volumes)}")
    moved = inside if top == path else f"{inside}/{path.name}"
    return f"file://{moved}" if word.startswith("file:") else moved


def main() -> int:
    """Returns the exit code."""
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    volumes: dict[Path, str] = {}
    config = configparser.RawConfigParser()
    config.add_section("global")
    settings = read()
    for key, value in settings.items():
        config.set("global", key, "\n".join(move(word, volumes) for word in value.split()))
    with (folder / "pip.conf").open("w") as out:
        config.write(out)
    lines = [f"{path}:{inside}:ro\n" for path, inside in volumes.items()]
    (folder / "volumes").write_text("".join(lines))
    if any(key in settings for key in SOURCES):
        (folder / "sources").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
