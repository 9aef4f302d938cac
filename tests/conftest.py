"""Two workers share the cores: each computes with one BLAS thread, set before NumPy is imported."""

import gc
import os
import zlib

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# A first call compiles kernels, so the time of one example says nothing. The same examples every time, so that a
# change is judged by what it changed; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_finish():
    """Let the garbage collector pass over what all the imports left, which stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_numbers(request):
    """A module's RNG gives a test the same numbers alone, in any order and on any worker."""
    rng = getattr(getattr(request.node, "module", None), "RNG", None)
    if rng is not None:
        seed = zlib.crc32(request.node.name.encode())
        rng.bit_generator.state = type(rng.bit_generator)(seed).state
