"""A fresh clone in which the example decoder can be made."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docs.story import Story, fresh_clone


def layered_environment(clone: Path) -> None:
    """Makes `.venv` in a clone: an environment of its own, into which a command may install, on top of the one that the
    tests run in, so that torch need not be installed again; pip is that one's, too. `make` takes it for the result of
    `make install`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    below = sysconfig.get_path("purelib")
    (inside,) = (clone / ".venv").glob("lib/python3*/site-packages")
    (inside / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    scripts = Path(sys.prefix) / "bin"
    program = (scripts / "manyhats").read_text().splitlines(keepends=True)
    program[0] = f"#!{clone / '.venv' / 'bin' / 'python'}\n"
    (clone / ".venv" / "bin" / "manyhats").write_text("".join(program))
    (clone / ".venv" / "bin" / "manyhats").chmod(0o755)
    (clone / ".venv" / ".installed").touch()


@contextmanager
def decoder_story(folder: Path) -> Iterator[Story]:
    """A story in a fresh clone with an environment of its own."""
    with Story(fresh_clone(folder)) as story:
        layered_environment(folder)
        yield story
