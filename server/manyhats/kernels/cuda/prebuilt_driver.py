"""Triton's own module in C, compiled beforehand, so that a container image needs no C compiler.

Before its first program Triton compiles `driver.c`, which loads and launches programs. As the image is built, `python
-m manyhats.kernels.cuda.prebuilt_driver` does so, where there is a compiler; `use` has Triton take what came out. Of
Triton this uses `knobs.build.impl`, which is there for that, and where its driver lies and with what it is compiled.
Triton before 3.7 compiles one more module for each program's arguments, and so needs a compiler where it runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_LAUNCHES = b'{"launch", '  # in the table of what the module does for Python: it launches every program itself
_STUB = ("-shared", "-nostdlib", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null")


def _source() -> Path | None:
    """The file that Triton compiles; None without Triton, which this does not import."""
    origin = getattr(importlib.util.find_spec("triton"), "origin", None)
    if origin is None:
        return None
    source = Path(origin).parent / "backends" / "nvidia" / "driver.c"
    return source if source.is_file() else None


def folder() -> Path:
    """Where the compiled module is looked for, in this environment."""
    return Path(sysconfig.get_paths()["data"]) / "share" / "manyhats" / "triton"


def _file(source: bytes) -> str:
    """The name of what is compiled from a source, by this Python's extension modules."""
    return f"{hashlib.sha256(source).hexdigest()}{sysconfig.get_config_var('EXT_SUFFIX')}"


@cache
def found() -> bool:
    """Whether the installed Triton's module has been compiled for this Python, and is all that it needs."""
    path = _source()
    source = b"" if path is None else path.read_bytes()
    return _LAUNCHES in source and (folder() / _file(source)).is_file()


def use() -> None:
    """Have Triton take the module that is there. Imports Triton."""
    from triton import knobs

    knobs.build.impl = _take
    # It is linked already: the driver's library is not looked for.
    knobs.nvidia.libcuda_path = str(folder())


def _take(name: str, source: str, *_: Any) -> str:
    """What Triton asks in place of a compiler. Raises RuntimeError for another source than its driver's."""
    compiled = folder() / _file(Path(source).read_bytes())
    if not compiled.is_file():
        raise RuntimeError(
            f"{name} is not among what was compiled beforehand in {folder()}, and there is no C compiler"
        )
    return str(compiled)


def build(out: Path) -> Path:
    """Compile the module into a folder, with Triton's own command. Raises OSError, CalledProcessError, RuntimeError."""
    from triton import knobs
    from triton.backends.nvidia import driver
    from triton.runtime.build import _build

    source = _source()
    if source is None:
        raise RuntimeError("Triton is not installed, or has its driver elsewhere")
    if _LAUNCHES not in source.read_bytes():
        raise RuntimeError(
            f"Triton {version('triton')} compiles a module for each program's arguments, so that nothing compiled "
            "beforehand will do: 3.7 or newer is needed, or a C compiler where the server runs"
        )
    with tempfile.TemporaryDirectory() as temporary:
        # What is linked comes with a GPU's driver. Its name is enough, even though nothing is in it.
        subprocess.run(["/usr/bin/env", "gcc", *_STUB, "-o", f"{temporary}/libcuda.so.1"], check=True)
        knobs.nvidia.libcuda_path = temporary
        flags = ["-Wl,--no-as-needed", *(f"-l:{name}" for name in driver.libraries)]
        where = driver.library_dirs(), driver.include_dirs, driver.libraries
        built = _build("cuda_utils", str(source), temporary, *where, flags)
        out.mkdir(parents=True, exist_ok=True)
        compiled = out / _file(source.read_bytes())
        compiled.write_bytes(Path(built).read_bytes())
    return compiled


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else folder()))
