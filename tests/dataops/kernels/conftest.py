"""Hypothesis without deadlines (a first call compiles) and with the same examples on every run."""

from hypothesis import settings

settings.register_profile("kernels", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("kernels")
