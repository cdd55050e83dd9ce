"""What a worker says of itself every few seconds."""

from __future__ import annotations

from pipeline.dispatch import Dispatch
from pipeline.errors import LinesideError
from pipeline.ports import Clock, EventSource
from pipeline.telemetry import Telemetry

_EVERY_S = 5.0


async def report(
    dispatch: Dispatch, source: EventSource, clock: Clock, telemetry: Telemetry
) -> None:
    """Set the gauges of one worker until cancelled."""
    stage = dispatch.stage
    while True:
        partitions = list(dispatch.partitions.values())
        telemetry.gauge("partitions_assigned", len(partitions), stage=stage)
        telemetry.gauge("careful_partitions", len(dispatch.careful), stage=stage)
        telemetry.gauge("records_buffered", len(dispatch.queue), stage=stage)
        telemetry.gauge("records_in_flight", dispatch.in_flight, stage=stage)
        telemetry.gauge("records_held", sum(one.held for one in partitions), stage=stage)
        try:
            ends = await source.end_offsets()
        except LinesideError:
            ends = {}  # away; the reader says so
        frontiers = {one.place: one.tracker.frontier for one in partitions}
        lag = sum(
            max(0, end - frontier)
            for place, end in ends.items()
            if (frontier := frontiers.get(place)) is not None
        )
        if ends:
            telemetry.gauge("lag_records", lag, stage=stage)
        await clock.sleep(_EVERY_S)
