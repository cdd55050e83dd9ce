"""Worker processes for tests of what outlives them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.member_rig import Members


@pytest.fixture
async def group(kafka: str, tmp_path: Path) -> AsyncIterator[Members]:
    """Members of a group of their own on the session's broker."""
    async with Members(kafka, tmp_path).running() as running:
        yield running
