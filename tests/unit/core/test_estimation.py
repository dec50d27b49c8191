import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_core.estimation.estimate import PriorEstimator, quality_at
from modelfleet_core.estimation.profile import CHAT, CODE, MATH, REASONING, RequestProfile, profile
from modelfleet_core.values import NanoUsd, TaskName
from support.fleets import fleet, model, on_pool

EASY = "What is 2 + 3?"
HARD = (
    "Suppose Ada has 37 apples. First she gives half of them to Bo, then Bo gives each of his 4 friends 2. "
    "If the remaining apples are split so that Cleo gets twice as many as Dev, how many does Dev get? "
    "Solve step by step, explain why, and compute the probability that 5 * 7 - 3 = 32."
)


def of(text: str, *, task: str | None = None, asked: int | None = None, most: int = 4096) -> RequestProfile:
    return profile(
        [text], task=TaskName(task) if task else None, asked_output_tokens=asked, max_output_tokens=most
    )


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Hello, how was your day?", CHAT),
        ("", CHAT),
        (HARD, MATH),
        ("What does this print?\n```python\nfor i in range(8):\n    print(i)\n```", CODE),
        ("Explain why the statement must be true or false, and prove it.", REASONING),
    ],
)
def test_a_task_is_guessed_from_words_only_when_none_is_named(text: str, task: TaskName):
    assert of(text).task == task
    assert of(text, task="extract").task == "extract"


def test_more_work_makes_a_request_harder():
    assert 0.0 <= of("Hi").difficulty < of(EASY).difficulty < of(HARD).difficulty <= 1.0


def test_the_input_bound_counts_every_byte_and_the_overhead_of_messages():
    assert of("é" * 100).input_tokens_bound == 200 + 32
    two = profile(["é" * 100, "x"], task=None, asked_output_tokens=None, max_output_tokens=16)
    assert two.input_tokens_bound == 201 + 48


def test_a_giant_input_is_counted_whole_but_read_in_part():
    filler = "word " * 400_000
    assert of(filler + HARD + filler).input_tokens_bound > 4_000_000
    assert of(filler + HARD + filler).task == CHAT
    assert of(HARD + filler).task == of(filler + HARD).task == MATH


def test_text_that_is_not_valid_unicode_is_still_bounded():
    assert of("\ud800" * 10).input_tokens_bound >= 30


def test_the_smaller_output_limit_holds_and_bounds_the_expectation():
    assert of(HARD).max_output_tokens == 4096
    assert of(HARD, asked=20).max_output_tokens == 20
    assert of(HARD, asked=20).output_tokens == 20.0
    assert of(HARD, asked=9999).max_output_tokens == 4096


def test_expected_output_follows_what_was_seen():
    seen = profile(
        [HARD],
        task=MATH,
        asked_output_tokens=None,
        max_output_tokens=4096,
        seen_output_tokens={MATH: 40.0},
    )
    assert seen.output_tokens == pytest.approx(40.0 * (0.5 + seen.difficulty))


def test_a_stronger_model_keeps_its_lead_and_a_weaker_one_falls_further():
    easy, hard = of(EASY, task="math"), of(HARD, task="math")
    two = fleet(
        model(on_pool("small"), quality=0.2, by_task={"math": 0.5}),
        model(on_pool("large"), quality=0.2, by_task={"math": 0.9}),
    )
    small_easy, large_easy = PriorEstimator().estimate(easy, two)
    small_hard, large_hard = PriorEstimator().estimate(hard, two)
    assert small_easy.quality < large_easy.quality
    assert small_hard.quality < large_hard.quality
    assert small_hard.quality / small_easy.quality < large_hard.quality / large_easy.quality < 1.0


def test_a_task_without_a_mean_takes_the_prior():
    one = fleet(model(on_pool("m"), quality=0.6, by_task={"math": 0.9}))
    known, other = of(EASY, task="math"), of(EASY, task="poetry")
    assert PriorEstimator().estimate(other, one)[0].quality < PriorEstimator().estimate(known, one)[0].quality


def test_a_request_is_as_hard_as_it_is_among_those_of_its_task():
    estimator = PriorEstimator()
    one = fleet(model(on_pool("m"), quality=0.6))
    request = of(EASY, task="chat")
    before = estimator.estimate(request, one)[0].quality
    for _ in range(400):
        estimator.saw(of("Hi", task="chat"))
    assert estimator.estimate(request, one)[0].quality < before


def test_lengths_of_answers_are_remembered_by_task():
    estimator = PriorEstimator()
    for _ in range(500):
        estimator.answered(MATH, 100)
    estimator.answered(CODE, 7)
    assert estimator.output_tokens() == {MATH: pytest.approx(100.0), CODE: 7.0}


def test_the_reserve_covers_the_bounds_and_the_cost_is_what_is_expected():
    request = of(HARD, asked=100)
    estimate = PriorEstimator().estimate(request, fleet(model(on_pool("m"))))[0]
    assert estimate.reserve == NanoUsd(1000 * request.input_tokens_bound + 2000 * 100)
    assert 0 < estimate.cost * 1e9 < estimate.reserve
    assert estimate.samples == 0.0
    assert 0.0 <= estimate.quality_variance <= 0.25


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_quality_stays_in_its_range_and_falls_with_hardness(mean: float, one: float, other: float):
    low, high = sorted((one, other))
    assert 0.0 <= quality_at(mean, high) <= quality_at(mean, low) <= 1.0


@given(st.lists(st.text(max_size=200), max_size=4), st.none() | st.integers(1, 10_000))
def test_any_text_has_a_profile_within_its_bounds(texts: list[str], asked: int | None):
    it = profile(texts, task=None, asked_output_tokens=asked, max_output_tokens=4096)
    assert 0.0 <= it.difficulty <= 1.0
    assert 0 <= it.input_tokens <= it.input_tokens_bound
    assert 0.0 <= it.output_tokens <= it.max_output_tokens <= 4096
