import shutil

import pytest
from manyhats.errors import ConfigurationError
from manyhats.kernels.cpu.backend import CpuKernels
from manyhats.kernels.cpu.library import VARIANTS, Library
from manyhats.kernels.reference import Reference


@pytest.fixture(scope="session", params=VARIANTS)
def library(request: pytest.FixtureRequest) -> Library:
    """Each variant that the processor runs."""
    try:
        best = Library()
    except ConfigurationError as error:
        if shutil.which("cc") is None:
            pytest.skip(error.message)
        pytest.fail(f"{error.message} (in a checkout: python setup.py build_ext --inplace)")
    if request.param not in best.variants:
        pytest.skip(f"this processor has no {request.param}")
    return Library(request.param)


class Refuses(Reference):
    """In the place of the reference: a call that should be done in C is not done elsewhere unseen."""

    def low_rank(self, *args, **kwargs):
        raise AssertionError("the reference was asked")

    scale_add = linear = masked_linear = sparse_add = lookup = low_rank


@pytest.fixture
def kernels(library: Library, monkeypatch: pytest.MonkeyPatch) -> CpuKernels:
    """The C kernels, which the reference does not help."""
    monkeypatch.setattr("manyhats.kernels.cpu.backend.Reference", Refuses)
    return CpuKernels(library)
