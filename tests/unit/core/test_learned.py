"""What scores taught corrects estimates, shrunk by how little there is, and travels as a checked document."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from modelfleet_core.estimation.archive import ArchiveError, pack, unpack
from modelfleet_core.estimation.embedding import TYPICAL, doubted, embed
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.learned import (
    NOTHING_LEARNED,
    SCHEMA,
    Learned,
    LearnedError,
    decode,
    encode,
)
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.estimation.merging import Learner
from modelfleet_core.values import ModelName
from support.experiences import embedding, key, sidecar, teach


def taught(scores: int, mean: float = 1.0, model: str = "small") -> Learned:
    log, learner = ExperienceLog("base"), Learner(1e9, "base")
    teach(log, model, scores, mean)
    learner.hear(sidecar(), log.changes(), 1.0)
    return learner.learned(1.0)


def correction(learned: Learned, model: str = "small") -> float:
    mine = learned.for_fleet([ModelName(model)])
    return mine.correct(embedding(), [0.5])[0][0] - 0.5


def test_nothing_learned_corrects_nothing() -> None:
    quality, _, samples = NOTHING_LEARNED.for_fleet([ModelName("a"), ModelName("b")]).correct(
        embedding(1.0), [0.2, 0.9]
    )
    assert quality == [0.2, 0.9]
    assert samples == [0.0, 0.0]


def test_few_scores_say_nothing_some_little_and_many_much() -> None:
    assert correction(taught(9)) == 0.0
    few, some, many = (correction(taught(scores)) for scores in (12, 60, 2000))
    assert 0.0 < few < 0.45
    assert few < some < many
    assert many > 0.45


def test_a_correction_stays_within_quality() -> None:
    learned = taught(500).for_fleet([ModelName("small")])
    assert learned.correct(embedding(), [0.9])[0][0] <= 1.0


def test_variance_falls_with_evidence_and_samples_tell_its_amount() -> None:
    less, more = (taught(n, 0.5).for_fleet([ModelName("small")]) for n in (20, 500))
    variances = [learned.correct(embedding(), [0.5])[1][0] for learned in (less, more)]
    assert variances[0] > variances[1] > 0.0
    assert more.samples[0] == pytest.approx(500.0)


def test_a_model_of_its_own_kind_is_corrected_by_its_own_scores() -> None:
    log, learner = ExperienceLog("base"), Learner(1e9, "base")
    teach(log, "good", 400, 0.9)
    teach(log, "bad", 400, 0.1)
    learner.hear(sidecar(), log.changes(), 1.0)
    learned = learner.learned(1.0)
    assert correction(learned, "good") > 0.3
    assert correction(learned, "bad") < -0.3
    assert abs(correction(learned, "new")) < 0.15


def test_what_all_models_share_holds_for_one_without_scores() -> None:
    log, learner = ExperienceLog("base"), Learner(1e9, "base")
    for model in ("a", "b", "c", "d", "e", "f"):
        teach(log, model, 300, 0.2)
    learner.hear(sidecar(), log.changes(), 1.0)
    new = learner.learned(1.0).for_fleet([ModelName("new")])
    quality, _, samples = new.correct(embedding(), [0.5])
    assert quality[0] < 0.4
    assert samples[0] == 0.0


def test_the_order_of_models_stays_where_nothing_is_known_of_the_others() -> None:
    """The favourite meets just the requests on which it was hoped too much of."""
    log, learner = ExperienceLog("base"), Learner(1e9, "base")
    teach(log, "favourite", 300, 0.45)
    teach(log, "other", 3, 0.6)
    learner.hear(sidecar(), log.changes(), 1.0)
    mine = learner.learned(1.0).for_fleet([ModelName("favourite"), ModelName("other"), ModelName("new")])
    favourite, other, new = mine.correct(embedding(), [0.5, 0.49, 0.49])[0]
    assert favourite < 0.5
    assert favourite > max(other, new)


def test_scores_of_both_turn_the_order_of_models() -> None:
    log, learner = ExperienceLog("base"), Learner(1e9, "base")
    teach(log, "favourite", 300, 0.3)
    teach(log, "other", 300, 0.6)
    learner.hear(sidecar(), log.changes(), 1.0)
    mine = learner.learned(1.0).for_fleet([ModelName("favourite"), ModelName("other")])
    favourite, other = mine.correct(embedding(), [0.5, 0.4])[0]
    assert other > favourite + 0.1


def test_where_there_is_nothing_to_learn_quality_of_what_is_chosen_does_not_fall() -> None:
    """Estimates that are right on average, of models that are nearly as good: scores are luck alone."""
    rng = np.random.default_rng(5)
    lost = []
    for _ in range(4):
        log, learner = ExperienceLog("base"), Learner(1e9, "base")
        names = [ModelName(name) for name in ("a", "b", "c", "d")]
        base = rng.uniform(0.3, 0.8, (1000, 4))
        kinds = doubted(embed(feature_matrix(TYPICAL)), 0.8)[rng.integers(len(TYPICAL), size=1000)]
        for number, (told, expected) in enumerate(zip(kinds, base, strict=True)):
            if number % 100 == 0:
                learner.hear(sidecar(), log.changes(), 1.0)
                learned = learner.learned(1.0).for_fleet(names)
            estimated = learned.correct(told, expected.tolist())[0]
            chosen = estimated.index(max(estimated))
            one = Answer(key(names[chosen]), told, float(expected[chosen]), estimated[chosen])
            log.scored(one, float(rng.random() < expected[chosen]))
            lost.append(expected.max() - expected[chosen])
    assert np.mean(lost[-1000:]) < 0.002


def test_a_correction_depends_on_the_request() -> None:
    log, learner = ExperienceLog("base"), Learner(1e9, "base")
    for side, mean in ((1.0, 0.9), (-1.0, 0.1)):
        teach(log, "small", 500, mean, side)
    learner.hear(sidecar(), log.changes(), 1.0)
    mine = learner.learned(1.0).for_fleet([ModelName("small")])
    high, low = (mine.correct(embedding(side), [0.5])[0][0] for side in (1.0, -1.0))
    assert high > 0.8
    assert low < 0.2


def test_a_document_is_what_was_encoded_and_its_version_its_content() -> None:
    learned = taught(100)
    again = decode(encode(learned))
    assert (again.version, again.base_version, again.models) == (learned.version, "base", learned.models)
    assert again.theta == pytest.approx(learned.theta, rel=1e-6, abs=1e-7)
    assert again.deviation == pytest.approx(learned.deviation, rel=1e-6, abs=1e-7)
    assert encode(again) == encode(learned)
    assert taught(100).version == learned.version
    assert taught(101).version != learned.version


def test_a_document_of_many_models_is_small() -> None:
    log, learner = ExperienceLog("base"), Learner(1e9, "base")
    for number in range(50):
        teach(log, f"model{number}", 20, 0.5, number / 50)
    learner.hear(sidecar(), log.changes(), 1.0)
    assert len(encode(learner.learned(1.0))) < 100_000


def test_every_cut_or_changed_document_is_refused_or_still_whole() -> None:
    data = encode(taught(30))
    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(data)
        broken[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            found = decode(bytes(broken))
        except LearnedError:
            continue
        assert np.isfinite(found.theta).all()
    for length in range(0, len(data), 97):
        with pytest.raises(LearnedError):
            decode(data[:length])


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"schema": "other"}, "schema"),
        ({"version": 3}, "versions"),
        ({"models": ["a", "a"]}, "different names"),
        ({"models": [3]}, "not names"),
        ({"models": ["a", "b"]}, "shape"),
        ({"models": "a"}, "list"),
    ],
)
def test_a_head_that_says_something_else_is_refused(head: dict[str, object], said: str) -> None:
    learned = taught(30)
    good = {"schema": SCHEMA, "version": "v", "base": "b", "models": list(learned.models)}
    _, arrays = unpack(encode(learned), ("theta", "deviation", "samples"), most=1 << 20)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    assert decode(pack(good, arrays)).version == "v"
    with pytest.raises(LearnedError, match=said):
        decode(pack({**good, **head}, arrays))


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ArchiveError, match="not finite"):
        unpack(pack({}, {"a": np.array([np.nan])}), ("a",), most=1000)


def test_an_entry_larger_than_its_bound_is_refused_before_it_is_read_whole() -> None:
    data = pack({}, {"a": np.zeros(1_000_000)})
    assert len(data) < 20_000
    with pytest.raises(ArchiveError, match="larger than"):
        unpack(data, ("a",), most=100_000)


@pytest.mark.parametrize("kind", ["|O", "<f2", "<c16"])
def test_types_that_are_not_used_are_refused(kind: str) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (1,), }}".encode()
        archive.writestr("head.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ArchiveError, match="type"):
        unpack(file.getvalue(), (), most=1000)
