"""Serves every stage: the sidecar's log, as text or JSON lines, and what it says of decisions.

In: records with figures as `extra`; each decision and refusal. Out: standard error. No line holds a prompt,
an answer or a key. Each decision is a line at level debug; at info a minute of them is one line of counts by
reason, so that its length does not depend on the traffic.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

from modelfleet_core.values import VariantKey, usd

from modelfleet_sidecar.decision import Decision

log = logging.getLogger(__name__)

SUMMARY = 60.0
"""Seconds that one line of counts sums up."""
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Writes the fields that the operator's log has, so that one query finds both."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record and what it was given as `extra`."""
        when = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _PLAIN},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(form: str, level: str) -> None:
    """Send all logs of this process from `level` on to standard error, as `text` or `json`."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("modelfleet_sidecar").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its starts and stops are told by `__main__`


class DecisionLines:
    """What the log says of decisions. Times are on the sidecar's clock."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._decided: Counter[tuple[VariantKey, str]] = Counter()
        self._refused: Counter[str] = Counter()
        self._retried: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def decided(self, decision: Decision) -> None:
        variant = decision.variant
        self._decided[variant, decision.reason.value] += 1
        if log.isEnabledFor(logging.DEBUG):
            figures = {
                "decision": decision.id,
                "model": variant.model,
                "variant": variant.variant,
                "tier": decision.tier,
                "task": decision.task,
                **({"rule": decision.rule} if decision.rule else {}),
                "reason": decision.reason.value,
                "quality": round(decision.quality, 4),
                "reserved_usd": usd(decision.reserved),
                "waited_seconds": round(decision.waited, 4),
                "batch": decision.batch_size,
                "attempt": len(decision.earlier) + 1,
            }
            log.debug("decided %s", _words(figures), extra=figures)

    def refused(self, reason: str) -> None:
        self._refused[reason] += 1
        log.debug("refused reason=%s", reason, extra={"reason": reason})

    def retried(self, reason: str) -> None:
        self._retried[reason] += 1
        log.debug("retries reason=%s", reason, extra={"reason": reason})

    def failed(self, model: str, reason: str) -> None:
        """A request ended with an error after its last attempt at a model."""
        self._failed[f"{model} {reason}"] += 1

    def sum_up(self, now: float) -> None:
        """Say what happened since the last time, once `SUMMARY` is over; nothing if nothing did."""
        if self._since is None:
            self._since = now
        if now - self._since < SUMMARY:
            return
        seconds, self._since = now - self._since, now
        counts = {
            "decided": Counter(
                {f"{variant} {why}": count for (variant, why), count in self._decided.items()}
            ),
            "refused": self._refused,
            "retried": self._retried,
            "failed": self._failed,
        }
        if any(counts.values()):
            figures = {name: dict(count.most_common()) for name, count in counts.items() if count}
            log.info("%.0f s of decisions: %s", seconds, _words(figures), extra=figures)
        for count in (self._decided, self._refused, self._retried, self._failed):
            count.clear()


def _words(figures: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in figures.items())
