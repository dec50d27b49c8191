"""What a start of the sidecar used up goes back to the system."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from modelfleet_sidecar.__main__ import give_back_memory
from support.memory import resident

PIECE = 64 * 1024
"""Bytes; larger ones are the system's own pieces, which go back when they are freed."""
PIECES = 1000


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_freed_memory_below_what_stays_goes_back_to_the_system() -> None:
    pieces = [np.ones(PIECE, np.uint8) for _ in range(PIECES)]
    stays = pieces.pop()
    pieces.clear()
    before = resident()
    give_back_memory()
    assert before - resident() > PIECE * PIECES // 2
    assert stays.all()
