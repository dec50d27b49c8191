"""What is remembered of answers, to know requests that come again, is little, and not for long."""

from __future__ import annotations

import sys
from dataclasses import replace

from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.values import NanoUsd
from modelfleet_sidecar.learning import REPEATED, Learning
from modelfleet_sidecar.telemetry import Telemetry
from support.decisions import decision


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def learning_by(clock: Clock) -> Learning:
    return Learning(experience=ExperienceLog(), clock=clock, telemetry=Telemetry())


def test_a_decision_is_not_kept_for_the_sake_of_its_answer() -> None:
    """Among many variants it is large, and the memory for explanations has let go of it for that."""
    learning, answered = learning_by(Clock()), decision(1)
    before = sys.getrefcount(answered)
    learning.answered(answered, NanoUsd(1), truncated=False)
    assert sys.getrefcount(answered) == before


def test_answers_are_forgotten_once_no_request_could_repeat_theirs() -> None:
    clock = Clock()
    learning = learning_by(clock)
    for number in range(5):
        one = decision(number)
        asked = replace(one, grounds=one.grounds._replace(asked_as=number))
        learning.answered(asked, NanoUsd(1), truncated=False)
        clock.now += REPEATED * 0.4
    assert learning.remembered == 3
