"""Stage batch, the edge: headers of a caller that go along to the model server, so that traces stay whole.

In: a request's headers. Out: those that are passed on, checked. Next: `forward` sends them. All others stay
here, above all the caller's authorization: a model server gets the key that the fleet names for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

REQUEST_ID = "x-request-id"
_FORMS = {
    "traceparent": re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,100})?"),
    "tracestate": re.compile(r"[!-~]([ -~]{0,510}[!-~])?"),
    REQUEST_ID: re.compile(r"[!-~]([ -~]{0,198}[!-~])?"),
}
"""As W3C Trace Context has the first two (https://www.w3.org/TR/trace-context/)."""
NOTHING_PASSED: Mapping[str, str] = MappingProxyType({})


def passed(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return what is passed on of `headers` (lower-case names); what has not its form is left out."""
    found = {
        name: headers[name]
        for name, form in _FORMS.items()
        if name in headers and form.fullmatch(headers[name])
    }
    return found or NOTHING_PASSED  # as of most requests, whose decisions are kept: one for all
