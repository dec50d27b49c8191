"""What an answer of each model would cost, as it is known before the answer.

In: the past, the queries, expected output tokens. Out: expected USD (n, m). Next: `sweeps`; alike for every
policy, so that they differ by their estimates of quality alone.
"""

from __future__ import annotations

import numpy as np

from modelfleet_lab.evaluate.protocol import Part
from modelfleet_lab.methods import FloatArray
from modelfleet_lab.outcomes import Recorded


def tokens_known(data: Recorded, part: Part) -> FloatArray:
    """Return (n, m) output tokens as recorded, or else what the recorded cost says of them.

    NaN where neither is known, or where output costs nothing and its length does not matter.
    """
    rest = part.cost - part.input_tokens[:, None] * data.price_in
    paid = np.where(data.price_out > 0, data.price_out, np.nan)
    implied = np.maximum(0.0, rest) / paid
    # Where no cost of the output was ever billed, the records do not know of any.
    implied[:, ~(np.nan_to_num(implied).max(axis=0, initial=0.0) > 1e-6)] = np.nan
    return np.where(np.isnan(part.output_tokens), implied, part.output_tokens)


def expected(data: Recorded, past: Part, asked: Part, known: FloatArray, tokens: FloatArray) -> FloatArray:
    """Return (n, m) USD for `asked`: tokens at list prices, set right by what the past was billed.

    `known` and `tokens` are expected output tokens of the past, by estimates that did not see the query, and
    of `asked`; NaN where none was ever seen. What a model billed over the past by its expectation there
    corrects it; a model that billed what no price tells of costs its mean.
    """
    before, now = _listed(data, past, known), _listed(data, asked, tokens)
    billed = past.cost.sum(axis=0)
    listed = before.sum(axis=0)
    ratio = billed / np.where(listed > 0, listed, 1.0)
    mean = billed / past.size
    result: FloatArray = np.where(listed > 0, now * ratio, mean)
    return result


def _listed(data: Recorded, part: Part, tokens: FloatArray) -> FloatArray:
    listed: FloatArray = part.input_tokens[:, None] * data.price_in + np.nan_to_num(tokens) * data.price_out
    return listed
