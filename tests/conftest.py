"""Two workers share the cores: each computes with one BLAS thread, set before NumPy is imported."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings

# A first call compiles kernels, so the time of one example says nothing.
settings.register_profile("sparsefact", deadline=None)
settings.load_profile("sparsefact")
