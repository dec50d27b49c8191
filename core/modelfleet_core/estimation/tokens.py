"""Stage forward, how many tokens a text has, where no server says so: by its letters, digits and signs.

In: a text. Out: tokens as models of today count them. Least squares over the 8,948 prompts of the data sets
ZeroEval and LLMRouter against the counts that come with them: half of the estimates are within 4 % and 8 %,
where those of bytes over 4 are within 4 % and 14 %. Letters beyond ASCII count by their UTF-8 bytes, which
makes half a token of a Cyrillic letter and three quarters of a Chinese one.
"""

from __future__ import annotations

import math
import string

A_LETTER, A_DIGIT, A_SIGN, A_BYTE = 0.235, 0.62, 0.93, 0.25
_OTHERS = str.maketrans("", "", string.ascii_letters + string.digits + string.whitespace)
_NO_LETTERS = str.maketrans("", "", string.ascii_letters + string.whitespace)
_BLANKS = str.maketrans("", "", string.whitespace)


def tokens_of(text: str) -> int:
    """Return about how many tokens `text` has, rounded up."""
    others = text.translate(_OTHERS)
    signs = len(others) if others.isascii() else sum(one.isascii() for one in others)
    beyond = 0 if signs == len(others) else len(others.encode("utf-8", "surrogatepass")) - signs
    digits = len(text.translate(_NO_LETTERS)) - len(others)
    letters = len(text.translate(_BLANKS)) - digits - len(others)
    return math.ceil(A_LETTER * letters + A_DIGIT * digits + A_SIGN * signs + A_BYTE * beyond)
