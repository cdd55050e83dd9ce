"""Logs of a role: one JSON object a line, fields beside a constant message."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

# What every record has; anything else came through `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Clients that tell of every heartbeat.
_CHATTY = ("aiokafka", "faiss", "httpx", "httpx2", "httpcore", "huggingface_hub", "timm")


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
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
