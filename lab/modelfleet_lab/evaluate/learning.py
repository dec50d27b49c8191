"""Learning replayed: requests of all tasks meet an estimator that was trained on other ones.

In: recorded outcomes. Out: `Learning`, over several seeds. Next: the section `learning` of the evaluation.

For each seed: queries are past or test by the split of the evaluation. A stale prior is trained on a part
of the past, as `Staleness` says, the offline estimator on all of it. Requests are the past in random order,
again and again; each goes to the model of the highest estimate (no price), or, for the given share, to one
that `explore` draws; of a share of the answers, at random, the recorded quality comes back as score, of the
model that answered and no other. Programs' own code learns: an `ExperienceLog`, a `Learner`, its `Learned`,
renewed every `_EVERY` requests. Measured is the mean recorded quality of what each estimator chooses on the
test, of which nobody was told anything; what was learned counts by its mean over the last third of the
requests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from modelfleet_core.estimation.embedding import doubted, embed
from modelfleet_core.estimation.experience import ExperienceKey
from modelfleet_core.estimation.exploration import explore
from modelfleet_core.estimation.learned import Learned
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.estimation.merging import Learner
from modelfleet_core.estimation.signs import signs
from modelfleet_core.estimation.subject import subject
from modelfleet_core.values import ModelName, SidecarId, TaskName

from modelfleet_lab.evaluate.estimators import Known, fit, known
from modelfleet_lab.evaluate.protocol import split
from modelfleet_lab.methods import BoolArray, FloatArray
from modelfleet_lab.outcomes import Recorded

REQUESTS = 6000
FEEDBACK = 0.2
EXPLORATION = 0.05
SEEDS = 6
_FADE = 0.5
"""Share of a task's past in a prior of other proportions, of that of the task before it."""
_ABOUT = ("code", "maths")
_EVERY = 100
"""Requests between two versions of what was learned."""
_MEASURED = 500
"""Requests between two measurements."""
_SECONDS = 10.0
"""Between two requests; against the half-life of evidence, the time of a whole replay is short."""
_HALF_LIFE = 604_800.0
_SIDECAR = SidecarId("replay", "sidecar", "sidecar", "1")


class Staleness(Enum):
    """What a prior was trained on; tasks are in the order of sha256("seed|task")."""

    HALF = "half"
    """The first half of the tasks."""
    QUARTER = "quarter"
    """The first quarter of them."""
    FAMILY = "code and maths"
    """Tasks most of whose texts the profiler takes for code or maths."""
    PROPORTIONS = "proportions"
    """All tasks, of each half the share of the one before."""


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
class Recovery:
    """Replays of one staleness, one for each seed."""

    replays: tuple[Replay, ...]

    def qualities(self, *, greedily: bool = False) -> tuple[float, float, float, float]:
        """Return the means of stale, learned and offline, and the worst seed's learned less stale."""
        stale, learned, offline = self._columns(greedily)
        return (
            float(stale.mean()),
            float(learned.mean()),
            float(offline.mean()),
            float((learned - stale).min()),
        )

    def recovered(self, *, greedily: bool = False) -> tuple[float, float, float]:
        """Return the share of offline less stale, of means over seeds, and its interval over such draws."""
        return _recovered(*self._columns(greedily))

    def _columns(self, greedily: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        stale = np.array([replay.stale for replay in self.replays])
        learned = [replay.learned_greedily if greedily else replay.learned for replay in self.replays]
        return stale, np.array(learned), np.array([replay.offline for replay in self.replays])

    def json(self) -> dict[str, object]:
        """Return its figures."""
        stale, learned, offline, worst = self.qualities()
        _, greedy, _, greedy_worst = self.qualities(greedily=True)
        recovered, low, high = self.recovered()
        greedily, greedy_low, greedy_high = self.recovered(greedily=True)
        curves = np.array([[quality for _, quality in replay.curve] for replay in self.replays])
        return {
            "stale": stale,
            "learned": learned,
            "offline": offline,
            "recovered": recovered,
            "recovered_ci": [low, high],
            "worst": worst,
            "greedy": {
                "learned": greedy,
                "recovered": greedily,
                "recovered_ci": [greedy_low, greedy_high],
                "worst": greedy_worst,
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


@dataclass(frozen=True, slots=True)
class Learning:
    requests: int
    feedback: float
    exploration: float
    found: Mapping[Staleness, Recovery]
    """Those that the data allow, the first one first; never empty."""

    def json(self) -> dict[str, object]:
        """Return the section: the figures of the first staleness, and all of them by name."""
        each = {staleness.value: recovery.json() for staleness, recovery in self.found.items()}
        return {
            "requests": self.requests,
            "feedback": self.feedback,
            "exploration": self.exploration,
            **next(iter(each.values())),
            "priors": each,
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
    staleness: Collection[Staleness] = tuple(Staleness),
    progress: Callable[[str], None],
) -> Learning:
    """Return replays for seeds from `seed` on; raise ValueError where there are fewer than two tasks."""
    check(data)
    if requests < _MEASURED:
        raise ValueError(f"{requests} requests are too few to replay; ask for {_MEASURED} at least")
    found: dict[Staleness, list[Replay]] = {}
    for one in range(seed, seed + seeds):
        progress(f"learning: seed {one}")
        parts = split(data, one)
        past, test = known(data, parts.past), known(data, parts.test)
        offline = fit(data.models, past).predict(test.x).quality
        for kind in staleness:
            members = trained_on(kind, parts.past.prompts, parts.past.tasks, one)
            if 0 < members.sum() < len(members):
                scene = _scene(data.models, past, test, members)
                found.setdefault(kind, []).append(
                    Replay(
                        seed=one,
                        known=tuple(sorted({parts.past.tasks[row] for row in np.flatnonzero(members)})),
                        stale=_chosen(scene.test_base, scene.test_quality),
                        offline=_chosen(offline, scene.test_quality),
                        curve=_play(scene, one, requests, feedback, exploration),
                        greedy=_play(scene, one, requests, feedback, 0.0),
                    )
                )
    if not found:
        raise ValueError("no prior can be made stale: the past is of one task")
    recoveries = {kind: Recovery(tuple(replays)) for kind, replays in found.items()}
    return Learning(requests, feedback, exploration, recoveries)


def trained_on(kind: Staleness, prompts: Sequence[str], tasks: Sequence[str], seed: int) -> BoolArray:
    """Return which of n queries of the past a prior of that staleness knows; none where there is no such."""
    order = sorted(set(tasks), key=lambda task: hashlib.sha256(f"{seed}|{task}".encode()).hexdigest())
    match kind:
        case Staleness.HALF:
            return np.isin(tasks, order[: max(1, len(order) // 2)])
        case Staleness.QUARTER:
            return np.isin(tasks, order[: max(1, len(order) // 4)])
        case Staleness.FAMILY:
            about = np.array([_about(prompt) in _ABOUT for prompt in prompts])
            mine = [task for task in order if about[np.isin(tasks, [task])].mean() > 0.5]
            return np.isin(tasks, mine)
        case Staleness.PROPORTIONS:
            share = {task: _FADE**place for place, task in enumerate(order)}
            draws = np.random.default_rng(seed).random(len(tasks))
            return draws < np.array([share[task] for task in tasks])


def _about(prompt: str) -> str:
    return subject(signs(prompt)).domain


def _scene(models: Sequence[str], past: Known, test: Known, members: BoolArray) -> _Scene:
    prior = fit(models, past, members)
    before, after = prior.predict(past.x), prior.predict(test.x)
    return _Scene(
        models=tuple(ModelName(name) for name in models),
        embedding=doubted(embed(past.x), before.confidence),
        base=before.quality,
        quality=past.part.quality,
        test_embedding=doubted(embed(test.x), after.confidence),
        test_base=after.quality,
        test_quality=test.part.quality,
    )


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
        estimates = learned.correct(told, base.tolist())[0]
        explored = explore(estimates, exploration, rng.random())
        chosen = estimates.index(max(estimates)) if explored is None else explored
        key = ExperienceKey(TaskName(""), "", scene.models[chosen], "")
        log.answered(key, estimates[chosen], 0.0)
        if rng.random() < feedback:
            answer = Answer(key, told, float(base[chosen]), estimates[chosen])
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
            learned.correct(told, base.tolist())[0]
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
