"""A role's own process: freed buffers are used again, and waking does not preempt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Twenty times the same 24 MB in three pieces, freed in between, on a thread as the stage has one.
SCRIPT = """
import resource, sys, threading
from app.process import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def work():
    for _ in range(20):
        pieces = [bytearray(8_000_000) for _ in range(3)]
        del pieces

def run():
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def printed(script: str, *words: str) -> int:
    """What a process of its own prints, since all of this is for good."""
    found = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_next_image_finds_the_buffers_of_the_last_in_place() -> None:
    given_back, kept = printed(SCRIPT, "given back"), printed(SCRIPT, "kept")
    # Page faults, which load on the machine does not move: 20 x 24 MB are 117,000 pages.
    assert given_back > 50_000
    assert kept < 1_000


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has the class")
def test_its_threads_are_in_the_batch_class() -> None:
    script = """
import os, threading
from app.process import wake_without_preempting

wake_without_preempting()
thread = threading.Thread(target=lambda: print(os.sched_getscheduler(0)))
thread.start()
thread.join()
"""
    assert printed(script) == os.SCHED_BATCH
