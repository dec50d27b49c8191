"""Stage assign and learn, few figures of a text: what corrections of estimates depend on.

In: the vector of `features`. Out: `EMBEDDING` figures, the first one 1; `doubted`, shorter where the base is
sure of itself. Next: `learning`, `learned`.

The others say which of some typical requests a text is like, by its lexical figures: a fixed map, so that
sums of different sidecars add whatever estimator they have. They fall off with the squared distance to each
request and sum to 1, so that a correction is a weighted mean of corrections for kinds of requests, and never
leaves their range however unlike all of them a text is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.features import LEXICAL, feature_matrix

FloatArray = npt.NDArray[np.float64]

TYPICAL = (
    "Which layer of the atmosphere holds most of the ozone?\nA. troposphere\nB. "
    "stratosphere\nC. mesosphere\nD. thermosphere\nAnswer:",
    "Where would you put a wet umbrella after a walk?\n(A) oven\n(B) stand by the door\n(C) "
    "bed\n(D) bookshelf\n(E) drawer",
    "Maria buys 3 boxes of pencils with 12 pencils in each box. She gives 7 pencils to "
    "her brother and shares the rest equally among 4 friends. How many pencils does each "
    "friend get?",
    "Let $f(x) = \\frac{x^2 - 4}{x + 2}$ for all real $x \\neq -2$. Find the value of "
    "$\\sum_{k=1}^{5} f(k)$ and express it as $\\sqrt{n}$ if possible.",
    'def count_vowels(text: str) -> int:\n    """Return the number of vowels in text.\n    '
    '>>> count_vowels(\'apple\')\n    2\n    """\n',
    "Write a Python function that removes duplicates from a list. Your code should pass "
    "these tests:\nassert unique([1, 2, 2]) == [1, 2]\nassert unique([]) == []\n",
    "who wrote the novel about the white whale",
    "In which year was the first bridge across the river opened, and who designed it?",
    "Write one sentence that uses all of these words: dog, river, throw, stick, swim",
    "Five people stand in a line. Ann is in front of Bob. Carl is directly behind Dora. "
    "Eve is neither first nor last. If Bob is third, who must be first? Explain each "
    "step.",
    "Translate the following text into French: The meeting has been moved to Thursday "
    "because two of us are travelling.",
    "Summarise the following article in three sentences.\n\nThe city council voted on "
    "Monday to extend the tram line to the northern suburbs. Supporters said that the "
    "new stops would cut traffic, while critics pointed to the cost. Construction is "
    "expected to begin next spring and to last two years. Residents will be able to "
    "comment on the plans until the end of the month.",
    'Extract the fields as JSON: {"name": string, "date": string, "total": '
    "number}\n\nInvoice 4471, 12 March 2021, Miller & Sons, total due: 1,240.50 EUR",
    "Hi! how are you doing today? I feel a bit bored, any ideas?",
    "SELECT c.name, SUM(o.amount) FROM customers c JOIN orders o ON o.customer_id = c.id "
    "WHERE o.date >= '2023-01-01' GROUP BY c.name; -- why is this slow?",
    'Traceback (most recent call last):\n  File "app.py", line 42, in <module>\n    '
    "main()\nKeyError: 'user_id'\nWhat is wrong here and how can I fix it?",
    "Write a short story about a lighthouse keeper who finds a letter in a bottle. Make "
    "it mysterious but warm, and end with a surprise.",
    'Is the sentiment of this review positive, negative or neutral? "The room was clean, '
    'but the staff ignored us for an hour."',
    "请解释一下什么是通货膨胀，以及它对普通家庭有什么影响。",
    "Explique por qué el cielo es azul y por qué el atardecer se ve rojo, con palabras sencillas para niños.",
    "Draft a polite email to a customer whose order is delayed by two weeks. Offer a "
    "discount of 10% and apologise.",
    "Passage: The heron is a long-legged bird that hunts in shallow water. It stands "
    "still for many minutes and strikes quickly when a fish comes near. Herons nest in "
    "colonies.\nQuestion: According to the passage, how does the heron catch fish?",
    "What are the main advantages and disadvantages of nuclear energy compared with wind power?",
)
"""Requests of different kinds: with and without choices, sums, proofs, code, prose, other languages."""
EMBEDDING = 1 + len(TYPICAL)
"""Length of an embedding, k."""
_LEAST_SPREAD = 1.0
"""Of a lexical figure over the typical requests, below which it tells less of a kind."""
_FARTHEST = 3.0
"""Spreads from their mean beyond which a figure says no more."""
_EVERYWHERE = 0.3
"""Deviation of an error common to all requests, in that of an error at a kind that the base never saw."""
_LEAST_ROOM = 0.1
"""Of the variance for a kind that the base never saw, what is left for one that it knows well."""
_REACH = 2.2
"""Squared distance by which likeness falls by a factor e."""


def embed(x: FloatArray) -> FloatArray:
    """Return the embedding (k,) of features (FEATURES,), or (n, k) of (n, FEATURES)."""
    z = _standardised(x)
    # Less the squared distance, but for what all kinds have in common.
    nearness = z @ _TOWARDS - _LENGTHS
    nearness -= nearness.max(axis=-1, keepdims=True)
    np.exp(nearness, out=nearness)
    result = np.ones((*x.shape[:-1], EMBEDDING))
    np.divide(nearness, nearness.sum(axis=-1, keepdims=True), out=result[..., 1:])
    return result


def doubted(embedding: FloatArray, confidence: FloatArray | float) -> FloatArray:
    """Return `embedding` (k,) or (n, k) as long as the base's estimate leaves room for being wrong.

    `confidence` in [0, 1], a figure or (n,). The prior variance of a correction goes with the squared length:
    where the base knows such requests, more scores are needed to move it, and elsewhere fewer.
    """
    if isinstance(confidence, float):  # of one request, for which arrays take longer
        room = math.sqrt(min(1.0, max(_LEAST_ROOM, 1.0 - confidence)))
        result: FloatArray = embedding * room
    else:
        rooms = np.sqrt(np.clip(1.0 - confidence, _LEAST_ROOM, 1.0))
        result = embedding * rooms[..., np.newaxis]
    result[..., 0] = _EVERYWHERE * embedding[..., 0]
    return result


def embed_one(x: FloatArray, confidence: float) -> FloatArray:
    """Return `doubted(embed(x), confidence)` (k,) for one request with features `x` (FEATURES,).

    Of so few figures most of the time goes into calls, which are fewer here.
    """
    nearness: list[float] = (_TOWARDS_EACH @ _standardised(x) - _LENGTHS).tolist()
    nearest = max(nearness)
    shares = [math.exp(one - nearest) for one in nearness]
    each = math.sqrt(min(1.0, max(_LEAST_ROOM, 1.0 - confidence))) / sum(shares)
    return np.array([_EVERYWHERE, *[each * share for share in shares]])


class Likeness(NamedTuple):
    """What a request's embedding is made of, for who asks later: most requests nobody asks about again."""

    lexical: bytes
    """(LEXICAL,) figures of its text, of float64: it is kept for long, and an array takes a third more."""
    confidence: float
    """Of the base in its estimate."""

    @property
    def embedding(self) -> FloatArray:
        """Return the embedding (k,)."""
        return embed_one(np.frombuffer(self.lexical), self.confidence)


def likeness(x: FloatArray, confidence: float) -> Likeness:
    """Return that of a request with features `x` (FEATURES,)."""
    return Likeness(x[:LEXICAL].tobytes(), confidence)


def _standardised(x: FloatArray) -> FloatArray:
    z: FloatArray = (x[..., :LEXICAL] - _CENTER) * _SCALE
    np.maximum(z, -_FARTHEST, out=z)
    np.minimum(z, _FARTHEST, out=z)
    return z


_TYPICAL = feature_matrix(TYPICAL)[:, :LEXICAL]
_CENTER = _TYPICAL.mean(axis=0)
_SCALE = 1.0 / np.maximum(_TYPICAL.std(axis=0), _LEAST_SPREAD)
_PLACES = _standardised(_TYPICAL)
_TOWARDS = np.ascontiguousarray(2.0 * _PLACES.T / _REACH)
_TOWARDS_EACH = np.ascontiguousarray(_TOWARDS.T)
_LENGTHS = np.square(_PLACES).sum(axis=1) / _REACH
