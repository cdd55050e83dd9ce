"""Freed buffers are used again; counted in page faults, which load on the machine does not move."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Twenty times the same 24 MB in three pieces, freed in between, on a thread as the stage has one.
SCRIPT = """
import resource, sys, threading
from app.allocator import keep_freed_memory

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


def faults(how: str) -> int:
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_next_image_finds_the_buffers_of_the_last_in_place() -> None:
    given_back, kept = faults("given back"), faults("kept")
    # 20 x 24 MB are 117,000 pages.
    assert given_back > 50_000
    assert kept < 1_000
