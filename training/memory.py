"""Freed memory is kept for the next tensor instead of being handed back to the kernel.

A step frees and takes blocks of a few MB by the thousand; glibc returns those above a threshold at once, and each comes
back as untouched pages. Keeping them turned 13,300 page faults a step into 55 and 0.26 s of processor time into 0.23
(1M parameters, measured).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # malloc.h of glibc
_LARGEST_MMAP_THRESHOLD = 32 << 20  # what glibc allows


def keep_freed_memory() -> None:
    """Tell the allocator of this process; elsewhere than on glibc nothing happens."""
    if not sys.platform.startswith("linux"):
        return
    try:
        tune = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    tune(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    tune(_TRIM_THRESHOLD, 1 << 30)
    tune(_TOP_PAD, 64 << 20)
    tune(_ARENA_MAX, 1)  # a thread's own arena could not hold them
