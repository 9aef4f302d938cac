"""Two workers share the cores: each computes with one BLAS thread, set before NumPy is imported."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
