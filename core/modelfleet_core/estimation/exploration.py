"""Stage assign, now and then another model than the best, so that feedback tells of it.

In: what each choice is worth, a draw. Out: the choice to explore, or none. Next: the decision.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_EXPLORED = 0.05
"""Share of requests, whatever a policy says."""
_NEARLY = 0.05
"""Worth, in units of quality, below the best at which another choice is tried."""


def explore(worth: Sequence[float], share: float, draw: float) -> int | None:
    """Return the index of another choice worth nearly as much as the best; None: take the best.

    `draw` is uniform in [0, 1): below `share` it also says which one. Choices that are not eligible are worth
    minus infinity.
    """
    share = min(share, MOST_EXPLORED)
    if not worth or draw >= share:
        return None
    best = max(range(len(worth)), key=worth.__getitem__)
    near = [k for k, value in enumerate(worth) if k != best and value >= worth[best] - _NEARLY]
    if not near or worth[best] == float("-inf"):
        return None
    return near[min(len(near) - 1, int(draw / share * len(near)))]
