"""Serves stage publish: the text of the widest lease terms on the operator's Lease object.

In: the `terms` of this leader's book, and the text that the leader before left. Out: text of a bounded
length, and the terms that it says. `leader.py` writes and reads the text, `app` passes the terms on.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from modelfleet_core.leasing.terms import UNKNOWN, Terms

log = logging.getLogger(__name__)

_MOST_TEXT = 200
_ALL = "all"


def terms_text(terms: Terms) -> str:
    """Return `terms` as JSON: seconds, and slots or `"all"` of them."""
    floor = _ALL if math.isinf(terms.floor) else int(terms.floor)
    return json.dumps({"lease": terms.lease, "request": terms.request, "floor": floor})


def inherited_terms(written: str) -> Terms:
    """Return the terms that `terms_text` wrote; what it did not write counts as the widest there are."""
    try:
        return _terms_of(written)
    except ValueError as error:
        log.warning(
            "the Lease does not say by which terms the last leader granted (%s): slots that are free go to "
            "nobody until every pod with a sidecar has reported; restart the pods that do not",
            error,
        )
        return UNKNOWN


def _terms_of(written: str) -> Terms:
    if not 0 < len(written) <= _MOST_TEXT:
        raise ValueError(f"its annotation has {len(written)} characters, not 1 to {_MOST_TEXT}")
    fields: Any = json.loads(written)
    if not isinstance(fields, dict) or fields.keys() != {"lease", "request", "floor"}:
        raise ValueError(f"{written} does not have just the fields lease, request and floor")
    floor = fields["floor"]
    return Terms(
        lease=_number(fields, "lease", UNKNOWN.lease),
        request=_number(fields, "request", UNKNOWN.request),
        floor=math.inf if floor == _ALL else _number(fields, "floor", 1e9),
    )


def _number(fields: dict[str, Any], name: str, most: float) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{name} is {value!r}, not a number from 0 to {most:g}")
    return float(value)
