"""Compiles the CPU kernels with the package; everything else about the package stands in pyproject.toml.

Where there is no C compiler that knows the processor's instructions, the package is pure Python, and its plain torch
operations do the work.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

from distutils.ccompiler import new_compiler  # isort: skip  (setuptools' own, which it puts in place when imported)
from distutils.errors import CCompilerError, DistutilsError  # isort: skip
from distutils.sysconfig import customize_compiler  # isort: skip

FOLDER = "server/manyhats/kernels/cpu"
FLAGS = ["-std=gnu11", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-Wno-psabi"]
# As much as kernels.c asks of every compiler; it leaves AMX out where the compiler has none.
PROBE = """
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
__attribute__((target("avx512f,avx512bf16"))) __m512i probe(__m512 a)
{ return (__m512i)_mm512_cvtne2ps_pbh(a, a); }
#endif
typedef float four __attribute__((vector_size(16)));
four twice(four a) { return a + a; }
"""


def can_compile() -> bool:
    """Whether the compiler that Python was built with, or that CC names, is there and knows what it must."""
    if os.name != "posix":
        return False
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(PROBE, encoding="utf-8")
        try:
            objects = compiler.compile([str(source)], output_dir="/", extra_postargs=FLAGS)
            compiler.link_shared_object(objects, str(source.with_suffix(".so")))
        except (CCompilerError, DistutilsError, OSError) as error:
            print(f"without CPU kernels: no C compiler that can build them ({error})", file=sys.stderr)
            return False
    return True


class BuildKernels(build_ext):
    """A library with a C interface that knows nothing of Python: one build for all its versions."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"


class Wheel(bdist_wheel):
    """Of one platform with the kernels, of any without; never of one Python."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return ("py3", "none", "any" if self.root_is_pure else platform)


def kernels() -> list[Any]:
    """The library, where it can be compiled."""
    headers = [str(path) for path in sorted(Path(FOLDER).glob("*.h"))]
    library = Extension(
        "manyhats.kernels.cpu._kernels", [f"{FOLDER}/kernels.c"], depends=headers, extra_compile_args=FLAGS
    )
    return [library] if can_compile() else []


setup(ext_modules=kernels(), cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel})
