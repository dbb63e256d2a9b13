import shutil

import pytest
from manyhats.errors import ConfigurationError
from manyhats.kernels.cpu.library import VARIANTS, Library


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
