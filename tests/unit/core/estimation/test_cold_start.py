"""What was trained, for the models that a fleet has now."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.estimation.training import train
from support.fleets import external, fleet, model
from support.training import FORMS, MODELS, made

X = feature_matrix([form.format(314, 27) for form in FORMS.values()])


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(MODELS, lambda: [made(600).batch()])


def of(*models: tuple[str, float], by_task: dict[str, float] | None = None) -> Fleet:
    return fleet(*(model(external(name), quality=prior, by_task=by_task) for name, prior in models))  # type: ignore[arg-type]


def test_known_models_keep_their_estimates_in_the_fleet_s_order(trained: Trained) -> None:
    mine = trained.for_fleet(of(("coder", 0.1), ("clerk-1", 0.1)))
    found, all_of_them = mine.predict(X), trained.predict(X)
    assert mine.models == ("coder", "clerk-1")
    for name in ("quality", "variance", "samples", "output_tokens"):
        assert getattr(found, name) == pytest.approx(getattr(all_of_them, name)[:, [3, 0]])


def test_a_new_model_takes_after_its_family_at_the_manifest_s_level(trained: Trained) -> None:
    mine = trained.for_fleet(of(("clerk-3", 0.5), ("poet", 0.5)))
    found = mine.predict(X)
    clerks = trained.predict(X).quality[:, :2].mean(axis=1)
    shape = np.corrcoef(found.quality[:, 0], clerks)[0, 1]
    assert shape > 0.95
    assert found.quality[:, 0].mean() == pytest.approx(0.5, abs=0.12)
    assert (found.samples[:, 0] == 0).all()
    assert (found.variance[:, 0] > found.variance[:, 1]).all()


def test_a_model_of_no_family_takes_after_models_of_its_level(trained: Trained) -> None:
    found = trained.for_fleet(of(("unheard-of", 0.9))).predict(X)
    assert found.quality.mean() == pytest.approx(0.9, abs=0.12)
    assert np.isfinite(found.output_tokens).all()


def test_what_the_manifest_says_of_a_task_holds_for_a_new_model(trained: Trained) -> None:
    low = trained.for_fleet(of(("new", 0.5), by_task={"sum": 0.1}))
    high = trained.for_fleet(of(("new", 0.5), by_task={"sum": 0.9}))
    assert high.predict(X).quality[0, 0] > low.predict(X).quality[0, 0] + 0.3


def test_a_fleet_of_new_models_alone_is_told_apart_by_the_manifest(trained: Trained) -> None:
    found = trained.for_fleet(of(("x", 0.2), ("y", 0.8))).predict(X).quality
    assert (found[:, 1] > found[:, 0]).all()


def test_a_model_that_training_named_but_never_saw_is_new() -> None:
    batch = made(300).batch()
    batch.quality[:, 3] = np.nan
    found = train(MODELS, lambda: [batch]).for_fleet(of(("coder", 0.77)))
    assert found.mean[0] == 0.77
