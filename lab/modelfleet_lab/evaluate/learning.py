"""Learning replayed: requests of all tasks meet an estimator that was trained on half of them.

In: recorded outcomes. Out: `Learning`, over several seeds. Next: the section `learning` of the evaluation.

For each seed: queries are past or test by the split of the evaluation, and half of the tasks are known: the
first half in the order of sha256("seed|task"). The stale prior is trained on the past of the known tasks,
the offline estimator on all of the past. Requests are the past in random order, again and again; each goes
to the model of the highest estimate (no price), or, for the given share, to one that `explore` draws; of a
share of the answers, at random, the recorded quality comes back as score, of the model that answered and no
other. Programs' own code learns: an `ExperienceLog`, a `Learner`, its `Learned`, renewed every `_EVERY`
requests. Measured is the mean recorded quality of what each estimator chooses on the test, of which nobody
was told anything; what was learned counts by its mean over the last third of the requests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from modelfleet_core.estimation.embedding import embed
from modelfleet_core.estimation.experience import ExperienceKey
from modelfleet_core.estimation.exploration import explore
from modelfleet_core.estimation.learned import Learned
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.estimation.merging import Learner
from modelfleet_core.values import ModelName, SidecarId, TaskName

from modelfleet_lab.evaluate.estimators import fit, known
from modelfleet_lab.evaluate.protocol import split
from modelfleet_lab.methods import FloatArray
from modelfleet_lab.outcomes import Recorded

REQUESTS = 6000
FEEDBACK = 0.2
EXPLORATION = 0.05
SEEDS = 8
_EVERY = 100
"""Requests between two versions of what was learned."""
_MEASURED = 500
"""Requests between two measurements."""
_SECONDS = 10.0
"""Between two requests; against the half-life of evidence, the time of a whole replay is short."""
_HALF_LIFE = 604_800.0
_SIDECAR = SidecarId("replay", "sidecar", "sidecar", "1")


@dataclass(frozen=True, slots=True)
class Replay:
    """One seed."""

    seed: int
    known: tuple[str, ...]
    """Tasks that the stale prior was trained on."""
    stale: float
    """Quality on the test."""
    offline: float
    curve: tuple[tuple[int, float], ...]
    """Requests so far, and quality on the test of what was learned by then."""
    greedy: tuple[tuple[int, float], ...]
    """The same without exploration."""

    @property
    def learned(self) -> float:
        """Return the mean over the last third."""
        return _ending(self.curve)

    @property
    def learned_greedily(self) -> float:
        return _ending(self.greedy)


@dataclass(frozen=True, slots=True)
class Learning:
    requests: int
    feedback: float
    exploration: float
    replays: tuple[Replay, ...]

    def json(self) -> dict[str, object]:
        """Return the section; shares are of the means over seeds, intervals over draws of seeds."""
        stale = np.array([replay.stale for replay in self.replays])
        offline = np.array([replay.offline for replay in self.replays])
        learned = np.array([replay.learned for replay in self.replays])
        greedy = np.array([replay.learned_greedily for replay in self.replays])
        recovered, low, high = _recovered(stale, learned, offline)
        greedily, greedy_low, greedy_high = _recovered(stale, greedy, offline)
        curves = np.array([[quality for _, quality in replay.curve] for replay in self.replays])
        return {
            "requests": self.requests,
            "feedback": self.feedback,
            "exploration": self.exploration,
            "stale": float(stale.mean()),
            "learned": float(learned.mean()),
            "offline": float(offline.mean()),
            "recovered": recovered,
            "recovered_ci": [low, high],
            "greedy": {
                "learned": float(greedy.mean()),
                "recovered": greedily,
                "recovered_ci": [greedy_low, greedy_high],
            },
            "curve": {
                "requests": [requests for requests, _ in self.replays[0].curve],
                "learned": curves.mean(axis=0).tolist(),
                "spread": curves.std(axis=0).tolist(),
            },
            "seeds": [
                {
                    "seed": replay.seed,
                    "known": list(replay.known),
                    "stale": replay.stale,
                    "learned": replay.learned,
                    "greedy": replay.learned_greedily,
                    "offline": replay.offline,
                }
                for replay in self.replays
            ],
        }


def check(data: Recorded) -> None:
    """Raise ValueError where there are fewer than two tasks."""
    if len(set(data.tasks)) < 2:
        raise ValueError("learning is replayed from half of the tasks to all: the data names fewer than two")


def run(
    data: Recorded,
    *,
    seed: int,
    seeds: int = SEEDS,
    requests: int = REQUESTS,
    feedback: float = FEEDBACK,
    exploration: float = EXPLORATION,
    progress: Callable[[str], None],
) -> Learning:
    """Return replays for seeds from `seed` on; raise ValueError where there are fewer than two tasks."""
    check(data)
    if requests < _MEASURED:
        raise ValueError(f"{requests} requests are too few to replay; ask for {_MEASURED} at least")
    found = []
    for one in range(seed, seed + seeds):
        progress(f"learning: seed {one}")
        found.append(_replay(data, one, requests, feedback, exploration))
    return Learning(requests, feedback, exploration, tuple(found))


def _replay(data: Recorded, seed: int, requests: int, feedback: float, exploration: float) -> Replay:
    parts = split(data, seed)
    past, test = known(data, parts.past), known(data, parts.test)
    tasks = known_tasks(data.tasks, seed)
    members = np.array([task in tasks for task in parts.past.tasks])
    stale, offline = fit(data.models, past, members), fit(data.models, past)
    base = stale.predict(past.x).quality
    scene = _Scene(
        models=tuple(ModelName(name) for name in data.models),
        embedding=embed(past.x),
        base=base,
        quality=parts.past.quality,
        test_embedding=embed(test.x),
        test_base=stale.predict(test.x).quality,
        test_quality=parts.test.quality,
    )
    return Replay(
        seed=seed,
        known=tasks,
        stale=_chosen(scene.test_base, scene.test_quality),
        offline=_chosen(offline.predict(test.x).quality, scene.test_quality),
        curve=_play(scene, seed, requests, feedback, exploration),
        greedy=_play(scene, seed, requests, feedback, 0.0),
    )


def known_tasks(tasks: Sequence[str], seed: int) -> tuple[str, ...]:
    """Return the half of `tasks` that the stale prior knows."""
    order = sorted(set(tasks), key=lambda task: hashlib.sha256(f"{seed}|{task}".encode()).hexdigest())
    return tuple(sorted(order[: len(order) // 2]))


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """n requests of the past, q of the test, m models."""

    models: tuple[ModelName, ...]
    embedding: FloatArray
    """(n, k)"""
    base: FloatArray
    """(n, m)"""
    quality: FloatArray
    """(n, m)"""
    test_embedding: FloatArray
    test_base: FloatArray
    test_quality: FloatArray


def _play(
    scene: _Scene, seed: int, requests: int, feedback: float, exploration: float
) -> tuple[tuple[int, float], ...]:
    rng = np.random.default_rng(seed)
    size = len(scene.base)
    order = np.concatenate([rng.permutation(size) for _ in range(math.ceil(requests / size))])[:requests]
    log, learner = ExperienceLog("stale"), Learner(_HALF_LIFE, "stale")
    learned = learner.learned(0.0).for_fleet(scene.models)
    curve = []
    for number, row in enumerate(order.tolist(), start=1):
        now = number * _SECONDS
        told, base = scene.embedding[row], scene.base[row]
        estimates = learned.correct(told, base)[0]
        explored = explore(estimates.tolist(), exploration, rng.random())
        chosen = int(estimates.argmax()) if explored is None else explored
        key = ExperienceKey(TaskName(""), "", scene.models[chosen], "")
        log.answered(key, float(estimates[chosen]), 0.0)
        if rng.random() < feedback:
            answer = Answer(key, told, float(base[chosen]), float(estimates[chosen]))
            log.scored(answer, float(scene.quality[row, chosen]))
        if number % _EVERY == 0:
            learner.hear(_SIDECAR, log.changes(), now)
            log.sent(number)
            log.answered_to(number)
            learned = learner.learned(now).for_fleet(scene.models)
        if number % _MEASURED == 0:
            curve.append((number, _chosen(_corrected(learned, scene), scene.test_quality)))
    return tuple(curve)


def _corrected(learned: Learned, scene: _Scene) -> FloatArray:
    return np.array(
        [
            learned.correct(told, base)[0]
            for told, base in zip(scene.test_embedding, scene.test_base, strict=True)
        ]
    )


def _chosen(estimates: FloatArray, quality: FloatArray) -> float:
    """Return the mean quality of the models with the highest estimates."""
    return float(quality[np.arange(len(quality)), estimates.argmax(axis=1)].mean())


def _ending(curve: tuple[tuple[int, float], ...]) -> float:
    """Return the mean over the last third of the requests."""
    last = curve[-1][0]
    return float(np.mean([quality for requests, quality in curve if 3 * requests > 2 * last]))


def _recovered(stale: FloatArray, learned: FloatArray, offline: FloatArray) -> tuple[float, float, float]:
    """Return the recovered share of offline - stale, and a 95 % interval over draws of seeds; NaN where
    there is nothing to recover."""
    gain, gap = learned - stale, offline - stale
    if gap.mean() <= 0.0:
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(gap), (2000, len(gap)))
    shares = gain[draws].mean(axis=1) / np.maximum(gap[draws].mean(axis=1), 1e-9)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(gain.mean() / gap.mean()), float(low), float(high)
