"""Pure functions on arrays: numpy, numba and pyarrow, nothing else."""
