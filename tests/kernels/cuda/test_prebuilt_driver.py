"""Triton without a C compiler: what it compiles is there already."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from manyhats.kernels.cuda import prebuilt_driver

pytest.importorskip("triton")
if shutil.which("gcc") is None or not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
    pytest.skip("needs gcc and Python's headers", allow_module_level=True)

# Triton's driver loads what was compiled; another thing that it asks for is not there. Nothing is found on the PATH.
USE = """
import os, sys
from pathlib import Path
from manyhats.kernels.cuda import prebuilt_driver
prebuilt_driver.folder = lambda: Path(sys.argv[1])
assert prebuilt_driver.found()
prebuilt_driver.use()
from triton.backends.nvidia.driver import CudaUtils
assert callable(CudaUtils().launch)
from triton.runtime.build import compile_module_from_src
try:
    compile_module_from_src("int other;", "other")
except RuntimeError as error:
    print(error)
"""


def run(script: str, *words: str, **environment: str) -> str:
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_triton_that_compiles_more_while_it_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As those before 3.7, of which the module alone launches nothing."""
    source = tmp_path / "driver.c"
    source.write_text('static PyMethodDef methods[] = {{"load_binary", load, METH_VARARGS, "loads"}};')
    monkeypatch.setattr(prebuilt_driver, "_source", lambda: source)
    monkeypatch.setattr(prebuilt_driver, "folder", lambda: tmp_path)
    (tmp_path / prebuilt_driver._file(source.read_bytes())).touch()
    assert not prebuilt_driver.found.__wrapped__()
    with pytest.raises(RuntimeError, match=r"compiles a module for each program.* 3\.7 or newer"):
        prebuilt_driver.build(tmp_path / "built")
    assert not (tmp_path / "built").exists()


def test_triton_takes_what_was_compiled(tmp_path: Path):
    if prebuilt_driver._LAUNCHES not in (prebuilt_driver._source() or Path(os.devnull)).read_bytes():
        pytest.skip("this Triton compiles a module for each program's arguments")
    built = run(
        "import sys; from pathlib import Path; from manyhats.kernels.cuda import prebuilt_driver as p; "
        "print(p.build(Path(sys.argv[1])))",
        str(tmp_path / "built"),
        TRITON_CACHE_DIR=str(tmp_path / "one"),
    ).strip()
    assert built.endswith(sysconfig.get_config_var("EXT_SUFFIX"))
    # Here is no driver of a GPU: its functions are named, and do nothing.
    unknown = subprocess.run(["nm", "--undefined-only", built], capture_output=True, text=True, check=True).stdout
    functions = [name for line in unknown.splitlines() if (name := line.split()[-1]).startswith("cu")]
    assert functions
    source = "".join(f"int {name}() {{ return 0; }}\n" for name in functions)
    (tmp_path / "cuda").mkdir()
    library = tmp_path / "cuda" / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(library), "-x", "c", "-"]
    subprocess.run(command, input=source, text=True, check=True)
    said = run(
        USE,
        str(tmp_path / "built"),
        PATH="",
        CC="no-compiler",
        LD_LIBRARY_PATH=str(library.parent),
        TRITON_CACHE_DIR=str(tmp_path / "two"),
    )
    assert "other is not among what was compiled beforehand" in said
