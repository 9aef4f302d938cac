"""The CUDA kernels on the CPU: compiled by a C++ compiler against a header that runs every thread as a fiber."""
