"""Which role gets the processor first where cores are few: the verdict before all else."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Niceness by role, 0 to 19: similar cases may come a moment after the verdict.
_NICENESS = {"embed": 10}


def take_place(role: str) -> None:
    """Give this process its place among the roles of the machine; call before threads start.

    `up` starts each role in a session of its own, and Linux shares the processor out by session
    before it looks at niceness (autogroups): so the session gets its place as well.
    """
    niceness = _NICENESS.get(role, 0)
    if not niceness:
        return
    os.nice(niceness)
    with contextlib.suppress(OSError):
        is_own_session = os.getsid(0) == os.getpid()
        if is_own_session:
            Path("/proc/self/autogroup").write_text(str(niceness), "ascii")
