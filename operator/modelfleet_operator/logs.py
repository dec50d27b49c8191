"""Serves every stage: logs as one JSON object per line, with a decision's figures as fields."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

OURS = "modelfleet_operator"
"""What other libraries attach to their records is not for users: kopf's are whole objects and settings."""
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the record and, of our own, what it was given as `extra`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.name.startswith(OURS):
            line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json(level: int = logging.INFO) -> None:
    """Send all logs of this process to standard error as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It writes a line for every watch event that a handler took.
    logging.getLogger("kopf.objects").setLevel(max(level, logging.WARNING))
    # It warns that it does not handle signals: the programs do.
    logging.getLogger("kopf._core.reactor.running").setLevel(max(level, logging.ERROR))
