"""The split, the best single model, and what answers are expected to cost."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.evaluate import costs
from modelfleet_lab.evaluate.plain import task_means
from modelfleet_lab.evaluate.protocol import best_single, part_of, split
from support.recorded_folder import recorded


def test_a_hash_of_seed_and_prompt_decides_the_side() -> None:
    data = recorded(1, n=200)
    found = split(data, 7)
    share = [int(hashlib.sha256(f"7|{p}".encode()).hexdigest()[:8], 16) / 2**32 for p in data.prompts]
    assert found.past.prompts == tuple(p for p, s in zip(data.prompts, share, strict=True) if s < 0.6)
    assert found.past.size + found.test.size == 200
    assert not set(found.past.prompts) & set(found.test.prompts)


def test_the_best_single_model_is_chosen_on_the_past() -> None:
    data = recorded(1, n=200)
    found = split(data, 0)
    data.quality[np.isin(data.prompts, found.past.prompts), 3] = 1.0
    data.quality[np.isin(data.prompts, found.test.prompts), 3] = 0.0
    found = split(data, 0)
    assert found.single == 3
    assert found.single_quality == 0.0


def test_of_equally_good_models_the_cheapest_is_best() -> None:
    data = recorded(1, n=40)
    everything = part_of(data, np.ones(40, dtype=bool))
    assert best_single(replace(everything, quality=np.ones((40, 4)))) == int(data.cost.mean(axis=0).argmin())


def test_too_few_prompts_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match=r"leaves \d+ different prompts for the (past|test) of 12 in all"):
        split(recorded(1, n=12), 0)


def test_one_model_is_refused() -> None:
    data = recorded(1, n=40)
    alone = replace(
        data,
        models=data.models[:1],
        quality=data.quality[:, :1],
        cost=data.cost[:, :1],
        output_tokens=data.output_tokens[:, :1],
        price_in=data.price_in[:1],
        price_out=data.price_out[:1],
    )
    with pytest.raises(ValueError, match="only small can be compared"):
        split(alone, 0)


def test_expected_cost_is_tokens_at_list_prices() -> None:
    data = recorded(2, n=30)
    part = part_of(data, np.ones(30, dtype=bool))
    found = costs.expected(data, part, part, data.output_tokens, data.output_tokens)
    assert found == pytest.approx(data.cost)


def test_what_the_past_was_billed_sets_expectations_right() -> None:
    data = recorded(2, n=30)
    dear = replace(data, cost=data.cost * 1.5)
    part = part_of(dear, np.ones(30, dtype=bool))
    assert costs.expected(dear, part, part, data.output_tokens, data.output_tokens) == pytest.approx(
        dear.cost
    )


def test_without_lengths_of_answers_the_input_is_priced() -> None:
    data = recorded(2, n=30)
    listed = data.input_tokens[:, None] * data.price_in
    plain = replace(data, cost=listed, output_tokens=np.full((30, 4), np.nan))
    part = part_of(plain, np.ones(30, dtype=bool))
    tokens = costs.tokens_known(plain, part)
    assert np.isnan(tokens).all()
    assert costs.expected(plain, part, part, tokens, tokens) == pytest.approx(listed)


def test_lengths_that_are_not_recorded_follow_from_the_bill() -> None:
    data = recorded(2, n=30)
    part = part_of(replace(data, output_tokens=np.full((30, 4), np.nan)), np.ones(30, dtype=bool))
    assert costs.tokens_known(data, part) == pytest.approx(data.output_tokens)


def test_a_model_without_list_price_costs_what_it_billed_on_average() -> None:
    data = recorded(2, n=30)
    free = replace(data, price_in=np.zeros(4), price_out=np.zeros(4))
    part = part_of(free, np.ones(30, dtype=bool))
    tokens = costs.tokens_known(free, part)
    found = costs.expected(free, part, part, tokens, tokens)
    assert found[0] == pytest.approx(data.cost.mean(axis=0))


def test_a_task_without_past_has_the_mean_over_all() -> None:
    data = recorded(3, n=60)
    part = part_of(data, np.ones(60, dtype=bool))
    asked = replace(part, tasks=("sum", "other", *part.tasks[2:]))
    found = task_means(part, asked, part.quality)
    sums = np.array(data.tasks) == "sum"
    assert found[0] == pytest.approx(data.quality[sums].mean(axis=0))
    assert found[1] == pytest.approx(data.quality.mean(axis=0))
