"""How long the broker may hold a fetch open: briefly while a partition is left out of it."""

from __future__ import annotations

from typing import Any

# A partition that is not in a fetch (paused, or its last records are not taken yet) is asked for
# only after that fetch has come back: 277 ms less at the 95th percentile than with 500 ms.
LEFT_OUT_WAIT_MS = 50
# With every partition in it, a fetch comes back at the first record of any. Holding it longer
# then delays nothing but other questions on its connection; ten members that ask 20 times a second
# for nothing took a sixth of a core from the broker, and wake-ups from everybody else.
WAIT_MS = 250
# A member that gathers is answered at once when so much waits for it, some fifty events.
GATHERED_BYTES = 64_000


def gathering(wait_s: float) -> dict[str, int]:
    """Return options of aiokafka that let the broker hold few records back for `wait_s`, if any.

    A member in no hurry then does not wake just when one is at work that somebody waits for.
    Below a second, since other questions on the connection wait as long.
    """
    if not wait_s:
        return {}
    return {"fetch_min_bytes": GATHERED_BYTES, "fetch_max_wait_ms": int(wait_s * 1000)}


def be_patient(consumer: Any) -> None:
    """Let a started `AIOKafkaConsumer` wait longer with a fetch that covers all of a broker.

    Not for a member that gathers: to it, this wait is how late a record may come.

    aiokafka offers one wait for every fetch, so its plan is changed where it is made. With a
    version that plans elsewhere the short wait simply stays.
    """
    fetcher = consumer._fetcher  # noqa: SLF001 - not public; see above
    plan = getattr(fetcher, "_get_actions_per_node", None)
    leader_of = getattr(fetcher, "_select_read_replica", None)
    if plan is None or leader_of is None:
        return

    def plan_patiently(assignment: Any) -> Any:
        actions = plan(assignment)
        for node, request in actions[0]:
            asked = sum(len(partitions) for _, partitions in request.topics)
            if asked == sum(leader_of(place) == node for place in assignment.tps):
                request._max_wait_ms = WAIT_MS  # noqa: SLF001 - as above
        return actions

    fetcher._get_actions_per_node = plan_patiently  # noqa: SLF001 - as above
