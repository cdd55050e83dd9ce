"""Events of one key whose loads end, and fail, in another order than they came in."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline.errors import TransientError
from tests.worker_rig import Rig, ScriptedStage, SlotScriptedStage


@pytest.mark.parametrize("kind", [ScriptedStage, SlotScriptedStage])
async def test_an_earlier_event_goes_on_while_a_later_one_of_its_key_is_held(
    kind: type[ScriptedStage],
) -> None:
    """Found by the kill smoke test: the later one waited for the earlier, and that one for ever."""
    rig, stage = Rig(partitions=1), kind()
    due = rig.clock.now() + timedelta(seconds=3)

    async def slowly(part: str) -> None:
        await rig.clock.sleep({"a": 1.0, "b": 0.5}.get(part, 0.0))

    stage.before_load = slowly
    stage.fault_in_load = lambda part: (
        TransientError(not_before=due) if part == "c" and rig.clock.now() < due else None
    )
    rig.send_parts("a", "b", "c", "d")
    async with rig.running(rig.worker(stage, slots=4)):
        await rig.until(lambda: rig.outputs() == ["a", "b"])
        assert rig.clock.now() < due
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "b", "c", "d"]
