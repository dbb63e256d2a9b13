"""The kernels in Triton, for CUDA devices. Modules below `programs` import Triton; see `backend`."""
