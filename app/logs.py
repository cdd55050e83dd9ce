"""Logs of a role: one JSON object a line, fields beside a constant message."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# What every record has; anything else came through `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Clients that tell of every heartbeat; of an outage our own lines tell once, aiokafka's endlessly.
_CHATTY = {
    "aiokafka": logging.CRITICAL,
    "uvicorn": logging.WARNING,
    "faiss": logging.WARNING,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
    "huggingface_hub": logging.WARNING,
    "timm": logging.WARNING,
}


class JsonLines(logging.Formatter):
    """Renders a record as JSON with its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields = {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Write to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, least in _CHATTY.items():
        logging.getLogger(name).setLevel(least)


def note_act(state_dir: Path, act: Mapping[str, Any]) -> None:
    """Keep what a person decided on the command line: one JSON line in `logs/audit.log`."""
    folder = state_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, **act}, ensure_ascii=False)
    with (folder / "audit.log").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def dump_tasks_on(number: int) -> None:
    """On a signal, write every task's stack to stderr: for a process that seems to hang."""

    def dump() -> None:
        for task in asyncio.all_tasks():
            lines = " < ".join(reversed(list(_awaited(task.get_coro()))))
            sys.stderr.write(f"{task.get_name()}: {lines}\n")
        sys.stderr.flush()

    asyncio.get_running_loop().add_signal_handler(number, dump)


def _awaited(coroutine: Any) -> Iterator[str]:
    """Places that a coroutine stands at, outermost first."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None:
            yield f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
