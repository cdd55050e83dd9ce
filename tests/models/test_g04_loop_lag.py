"""G4: while a real model computes, the event loop stays awake: heartbeats and answers go on."""

from __future__ import annotations

import asyncio

import numpy as np

from adapters.weights import load_weights
from app.samples import bearing
from consumers.embed.encoder import open_encoder
from pipeline.compute import ComputeThread
from pipeline.loop_lag import LoopLag
from pipeline.telemetry import NullTelemetry

BOUND_S = 0.25
# Another process may take both cores for a moment; a loop that computes itself fails every time.
ROUNDS = 3


async def test_the_event_loop_is_never_a_quarter_second_late_while_a_model_computes() -> None:
    encoder = open_encoder("timm:tf_efficientnet_lite0", load_weights)
    photos = [np.ascontiguousarray(bearing.draw(None, seed).image) for seed in range(4)]
    compute = ComputeThread("compute-test")
    worst: list[float] = []
    try:
        await compute.run(encoder.encode, photos[:1])
        for _ in range(ROUNDS):
            lag = LoopLag(NullTelemetry())
            measuring = asyncio.create_task(lag.run())
            for _ in range(3):
                await compute.run(encoder.encode, photos)
            measuring.cancel()
            worst.append(lag.worst_s)
            if lag.worst_s < BOUND_S:
                break
    finally:
        compute.close()
    print(f"worst loop lag by round: {[f'{one * 1000:.0f} ms' for one in worst]}")
    assert min(worst) < BOUND_S
