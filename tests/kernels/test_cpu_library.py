"""How the C library is built, found and loaded, and what is said where that does not work."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from manyhats.errors import ConfigurationError
from manyhats.kernels.base import LowRank
from manyhats.kernels.cpu import library as module
from manyhats.kernels.cpu import struct_arrays
from manyhats.kernels.cpu.backend import CpuKernels
from manyhats.kernels.cpu.library import FILE, VARIABLE, Library, load, missing
from manyhats.kernels.cpu.struct_arrays import struct_array_of
from manyhats.kernels.reference import Reference
from manyhats.kernels.registry import choose
from manyhats.kernels.segments import Segment, Segments, Table
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    load.cache_clear()
    yield
    load.cache_clear()


def test_without_the_library_the_reference_is_chosen_and_the_reason_is_told(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(module, "FILE", tmp_path / "_kernels.so")
    assert "built without a C compiler: install one, and install manyhats again" in (missing() or "")
    with caplog.at_level("INFO"):
        assert isinstance(choose(CPU), Reference)
    assert "'cpu' cannot be used, which costs time, not answers: the package was built without" in caplog.text
    with pytest.raises(ConfigurationError, match="the kernels 'cpu' cannot be used: the package was built without"):
        choose(CPU, "cpu")


def test_a_file_that_is_no_library_is_told(tmp_path):
    file = tmp_path / "_kernels.so"
    file.write_bytes(b"not a library")
    with pytest.raises(ConfigurationError, match=r"_kernels\.so cannot be loaded: "):
        Library(file=file)


@compiler
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int manyhats_abi(void) { return 999; }", r"compiled from other sources \(version 999, not \d+\)"),
        ("int something_else(void) { return 0; }", "cannot be loaded: .*manyhats_abi"),
    ],
)
def test_a_library_of_another_version_is_refused(tmp_path, source, message):
    (tmp_path / "other.c").write_text(source)
    file = tmp_path / "other.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", file, tmp_path / "other.c"], check=True)
    with pytest.raises(ConfigurationError, match=message):
        Library(file=file)


def test_the_variable_forces_a_variant(library, monkeypatch):
    monkeypatch.setenv(VARIABLE, library.variant)
    assert load().variant == library.variant
    load.cache_clear()
    monkeypatch.setenv(VARIABLE, "sse9")
    with pytest.raises(ConfigurationError, match=r"no variant 'sse9' on this processor; it runs baseline"):
        load()


def test_it_runs_on_the_threads_of_torch(library):
    """The one OpenMP runtime of the process is the one that torch brought."""
    assert library.threaded == torch.backends.openmp.is_available()
    if Path("/proc/self/maps").exists():
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        own = [path for path in mapped if "gomp" in path or "libomp" in path or "iomp" in path]
        assert len(own) <= 1 or "sklearn" in sys.modules


def _work() -> bool:
    """A call that is large enough for threads, compared with the reference."""
    generator = torch.Generator().manual_seed(3)
    table: Table[LowRank] = Table()
    table.put(0, LowRank(*(torch.randn(16, 512, generator=generator) / 20 for _ in range(2))))
    x, y = (torch.randn(512, 512, generator=generator) for _ in range(2))
    segments = Segments([Segment(0, 200, 0), Segment(201, 512, 0)])
    with torch.inference_mode():
        mine, plain = y.clone(), y.clone()
        CpuKernels().low_rank(x, mine, table, segments)
        Reference().low_rank(x, plain, table, segments)
    return bool(torch.allclose(mine, plain, atol=1e-4))


def _child(kernels: CpuKernels, x: Tensor, y: Tensor, table: Table[LowRank]) -> None:
    """With the parent's tensors: torch's own products on several threads would never end here."""
    with torch.inference_mode():
        kernels.low_rank(x, y, table, Segments([Segment(0, 512, 0)]))
    os._exit(0 if float(y[511, 511]) == 8 * 512 else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_works_with_one_thread(library):
    """The parent's threads do not live on in it."""
    assert _work()
    table: Table[LowRank] = Table()
    table.put(0, LowRank(torch.ones(8, 512), torch.ones(8, 512)))
    arguments = CpuKernels(), torch.ones(512, 512), torch.zeros(512, 512), table
    child = multiprocessing.get_context("fork").Process(target=_child, args=arguments)
    child.start()
    child.join(60)
    code = child.exitcode
    if code is None:
        child.kill()
    assert code == 0
    assert _work()


def test_only_the_slots_that_changed_are_written_again(monkeypatch):
    written = []
    struct = struct_arrays._struct
    monkeypatch.setattr(struct_arrays, "_struct", lambda entry: written.append(entry) or struct(entry))
    table: Table[LowRank] = Table()
    entries = [LowRank(torch.zeros(2, 4), torch.zeros(2, 6)) for _ in range(20)]
    for slot, entry in enumerate(entries):
        table.put(slot, entry)
    structs = struct_array_of(table)
    first = structs.updated(table)
    assert len(written) == 20
    assert first.kind == (torch.float32, 4, 6)
    assert structs.updated(table) is first
    table.drop(3)
    table.put(7, entries[3])
    assert structs.updated(table).kind == first.kind
    assert written[20:] == [entries[3]]
    array = structs.updated(table).array
    assert [bool(one) for one in array["present"][:20]] == [slot != 3 for slot in range(20)]
    assert array["down"][7] == entries[3].down.data_ptr()
    table.put(3, LowRank(torch.zeros(2, 5), torch.zeros(2, 6)))  # of another width: no call fits both
    assert structs.updated(table).kind is None
    table.drop(3)
    assert structs.updated(table).kind == first.kind


@compiler
@pytest.mark.parametrize("cc", [pytest.param(None, marks=pytest.mark.slow), "/nonexistent/cc"])
def test_the_build_goes_on_without_a_compiler(tmp_path, cc):
    """setup.py compiles the library where it can, and says in one line that it cannot."""
    pytest.importorskip("setuptools")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "server/manyhats/kernels/cpu", tmp_path / "server/manyhats/kernels/cpu", ignore=lambda *_: {FILE.name}
    )
    shutil.copy(ROOT / "server/manyhats/_version.py", tmp_path / "server/manyhats")
    (tmp_path / "server/manyhats/__init__.py").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if cc is not None:
        environment["CC"] = cc
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", "out", "--build-temp", "temp"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    built = tmp_path / "out/manyhats/kernels/cpu" / FILE.name
    assert built.exists() == (cc is None)
    assert ("without CPU kernels: no C compiler" in done.stderr) == (cc is not None)
    if cc is None:
        assert Library(file=built).variant == Library().variant
