from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = """
import os
from pathlib import Path
from app.priority import take_place
take_place("{role}")
session = Path("/proc/self/autogroup")
shown = session.read_text().split()[-1] if session.exists() else ""
print(os.getpriority(os.PRIO_PROCESS, 0), shown)
"""


def place_of(role: str) -> tuple[int, str]:
    shown = subprocess.run(
        [sys.executable, "-c", SHOW.format(role=role)],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
        start_new_session=True,
    )  # fmt: skip
    niceness, _, session = shown.stdout.strip().partition(" ")
    return int(niceness), session


@pytest.mark.parametrize(("role", "added"), [("anomaly", 0), ("web", 0), ("embed", 10)])
def test_a_role_takes_its_place_and_its_session_with_it(role: str, added: int) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    niceness, session = place_of(role)
    assert niceness == min(19, own + added)
    assert session in {"", str(added)}
