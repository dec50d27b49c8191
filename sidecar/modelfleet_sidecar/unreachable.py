"""Serves stage assign: endpoints that refused a connection a moment ago.

A dead model server frees its slot at once, so without this its model would win, and fail, again and again
until the operator hears of it. In: failed connections. Out: which endpoints to leave alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from modelfleet_core.values import EndpointUrl, base_url

LEFT_ALONE = 3.0
"""Seconds: about what the operator needs to take a lost pod out of the lease."""


class Unreachable:
    """Endpoints by their base URL. Times are on the sidecar's clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[EndpointUrl, float] = {}

    def refused(self, endpoint: EndpointUrl) -> None:
        """A connection to `endpoint` failed just now."""
        now = self._clock()
        self._until = {url: until for url, until in self._until.items() if until > now}
        self._until[base_url(endpoint)] = now + LEFT_ALONE

    def leave_alone(self, endpoints: Collection[EndpointUrl], now: float) -> Collection[EndpointUrl]:
        """Return which of these endpoints not to connect to now."""
        if not self._until:
            return ()
        return {endpoint for endpoint in endpoints if self._until.get(base_url(endpoint), now) > now}
