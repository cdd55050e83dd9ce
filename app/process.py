"""What a role asks of the C library and of the kernel for its own process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

# Names and numbers of <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

# The largest that glibc takes; feature maps of one image are a few megabytes each.
_MAPPED_FROM_BYTES = 32 << 20
_KEPT_BYTES = 512 << 20
# Two threads allocate much: one that decodes and one that computes.
_ARENAS = 2


def keep_freed_memory() -> None:
    """Reuse the buffers of one image for the next instead of giving them back between the two.

    A network frees its feature maps layer by layer. By default glibc returns such memory to the
    system at once, and the next image pays for it page by page: eight thousand page faults an
    image, a quarter of the time of EfficientNet-Lite0 on a CPU. The peak is the same, and bounded
    by the number of arenas.

    Call before threads start. Without glibc (macOS, Alpine) nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, _ARENAS)
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def wake_without_preempting() -> None:
    """Keep this process's share of the processors, but let who runs go on when it wakes.

    One event wakes every stage. Those that a person does not wait for would take turns with the
    one that makes the verdict; in the kernel's batch class they are as fast and come after it.
    Threads started later inherit it. Where the kernel has no such class, nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
