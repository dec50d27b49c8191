"""Stage assign, the sidecar's estimator: what is in force of all that tells of a model's answers.

In: documents and the fleet from the lease, a plug-in where one is set, lengths and times of answers. Out:
`Known` of each request, and each variant's pace. Next: `prospect` makes a candidate of it.

The base of estimates is a plug-in, else what training found out, else the manifest's priors; what was learned
from feedback corrects the base that it was learned on. Documents are read in a thread; until a new one is
read, and where it can not be, the last good one stays, so no request waits for any of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from modelfleet_core.catalog import Fleet, Variant
from modelfleet_core.estimation.artifact import decode as read_trained
from modelfleet_core.estimation.asked import TrainedEstimator
from modelfleet_core.estimation.embedding import Likeness, likeness
from modelfleet_core.estimation.estimate import Estimates, PriorEstimator, estimates
from modelfleet_core.estimation.features import FloatArray, features
from modelfleet_core.estimation.forecast import (
    Estimator,
    Forecast,
    ForecastError,
    Question,
    checked,
)
from modelfleet_core.estimation.latency import Pace, Paces
from modelfleet_core.estimation.learned import NOTHING_LEARNED, Learned
from modelfleet_core.estimation.learned import decode as read_learned
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.estimation.profile import RequestProfile
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.leasing.messages import Document
from modelfleet_core.policy import Policy
from modelfleet_core.records import record
from modelfleet_core.values import TaskName, VariantKey

from modelfleet_sidecar.plugins import Plugin
from modelfleet_sidecar.telemetry import Telemetry

Parsed = TypeVar("Parsed")

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds between looks at the lease, should a change of it go unnoticed."""
SAID_AGAIN = 60.0
"""Seconds after which the log says again that a plug-in fails."""


class Lease(Protocol):
    """What it follows of the lease client."""

    @property
    def fleet(self) -> Fleet | None: ...
    @property
    def estimator(self) -> Document: ...
    @property
    def learned(self) -> Document: ...
    async def wait_change(self, timeout: float) -> bool: ...


@record
class Known:
    """What is known of one request."""

    estimates: Estimates
    estimator_version: str
    """Of the base; empty: the manifest's priors."""
    learned_version: str
    """Empty: nothing was learned on that base."""
    kappa: float
    """Standard deviations of pessimism that pay, as calibrated with the base."""
    likeness: Likeness | None
    """For what is learned of it later; None: nothing is."""


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """A base that can be asked, and fail."""

    name: str
    version: str
    kappa: float
    estimator: Estimator
    foreign: bool
    """Whether what it says must be checked."""


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """What is in force, for one fleet."""

    fleet: Fleet
    sources: tuple[_Source, ...]
    """To be asked in turn; after them the manifest's priors, which always have an answer."""
    learned: Learned | None
    """For the models of the fleet, in its order."""
    learned_version: str
    """Empty: nothing was learned on the base in force."""


class LiveEstimator:
    """One per sidecar, in its event loop."""

    def __init__(
        self,
        *,
        telemetry: Telemetry,
        experience: ExperienceLog,
        plugin: Plugin | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._telemetry = telemetry
        self._experience = experience
        self.plugin = plugin
        self._clock = clock
        self._priors = PriorEstimator()
        self._paces = Paces()
        self._taking = asyncio.Lock()
        self._documents: dict[str, Document] = {}
        """As taken over last, good or bad."""
        self._trained: Trained | None = None
        self._trained_version = ""
        self._learned = NOTHING_LEARNED
        self._learned_version = ""
        self._fitted: _Fitted | None = None
        self._followed: Fleet | None = None
        self._silent_until = 0.0
        self._swapped()

    @property
    def version(self) -> str:
        """Return the version of the base in force; empty: the manifest's priors."""
        return self.plugin.version if self.plugin is not None else self._trained_version

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """Return the tasks that the base tells apart besides the manifest's."""
        return self._trained.tasks if self._trained is not None else ()

    async def run(self, lease: Lease) -> None:
        """Follow the lease until cancelled."""
        while True:
            await self.take(lease)
            await lease.wait_change(LOOK_AGAIN)

    async def take(self, lease: Lease) -> None:
        """Take over the documents that the lease has now, and return once it is done."""
        async with self._taking:
            await self._take(lease)

    async def _take(self, lease: Lease) -> None:
        if (document := self._new("estimator", lease.estimator)) is not None:
            trained = await asyncio.to_thread(self._read, "estimator", document, read_trained)
            if trained is not None or not document.manifest:
                self._trained, self._trained_version = trained, document.version
                self._swapped()
        if (document := self._new("learned", lease.learned)) is not None:
            learned = await asyncio.to_thread(self._read, "learned", document, read_learned)
            if learned is not None or not document.manifest:
                self._learned, self._learned_version = learned or NOTHING_LEARNED, document.version
                self._swapped()
        if lease.fleet is not None and lease.fleet is not self._followed:
            self._followed = lease.fleet
            self._paces.keep(variant.key for variant in lease.fleet.variants())
            self._fitted = await asyncio.to_thread(self._fit, lease.fleet)

    def features(self, text: str, policy: Policy) -> FloatArray | None:
        """Return the features of a request's text; None: nothing asks for them."""
        if self._trained is None and self._learned is NOTHING_LEARNED and not policy.learning.enabled:
            return None
        return features(text)

    def estimate(self, question: Question, fleet: Fleet) -> Known:
        """Return what is known of a request whose `question.features` this made."""
        fitted = self._fitted
        if fitted is None or fitted.fleet is not fleet:
            fitted = self._fitted = self._fit(fleet)
        if question.features is None and (self._trained is not None or fitted.learned is not None):
            question = Question(question.profile, question.named_task, features(question.profile.text))
        version, kappa, forecast = "", 0.0, None
        for source in fitted.sources:
            if (forecast := self._asked(source, question, fleet)) is not None:
                version, kappa = source.version, source.kappa
                break
        if forecast is None:
            forecast = self._priors.forecast(question, fleet)
        like = None
        if question.features is not None:
            like = likeness(question.features, forecast.confidence)
        learned = fitted.learned if version == self._learned.base_version else None
        embedding = like.embedding if learned is not None and like is not None else None
        return Known(
            estimates=estimates(question.profile, fleet, forecast, learned, embedding),
            estimator_version=version,
            learned_version=fitted.learned_version if learned is not None else "",
            kappa=kappa,
            likeness=like,
        )

    def pace(self, variant: Variant, load: float) -> Pace:
        return self._paces.pace(variant, load)

    def saw(self, profile: RequestProfile) -> None:
        """Count a request that arrived."""
        self._priors.saw(profile)

    def output_tokens(self) -> Mapping[TaskName, float]:
        """Return mean lengths of answers by task."""
        return self._priors.output_tokens()

    def answered(
        self, task: TaskName, variant: VariantKey, load: float, output_tokens: int, timing: Timing
    ) -> None:
        """Count a whole answer: its length, and how long it took."""
        self._priors.answered(task, output_tokens)
        fleet = self._fitted.fleet if self._fitted is not None else None
        known = fleet.variant(variant) if fleet is not None else None
        if known is None:
            return
        if timing.first is None:
            self._paces.answered(known, load, timing.whole, output_tokens)
        else:
            rest = timing.whole - timing.first
            self._paces.streamed(known, load, timing.first, rest, output_tokens)

    def _new(self, kind: str, document: Document) -> Document | None:
        """Return the document if it was not taken over before."""
        if self._documents.get(kind) is document:
            return None
        before = self._documents.get(kind)
        self._documents[kind] = document
        return None if before is None and not document.manifest else document

    def _read(self, kind: str, document: Document, read: Callable[[bytes], Parsed]) -> Parsed | None:
        if not document.manifest:
            return None
        try:
            return read(document.manifest)
        except Exception as error:  # noqa: BLE001 - no document must end the sidecar
            log.error(
                "version %s of the %s can not be used, the last good one stays: %s",
                document.version,
                kind,
                error,
            )
            self._telemetry.document_refused(kind)
            return None

    def _swapped(self) -> None:
        """Something else is in force from now on."""
        self._fitted = self._fit(self._fitted.fleet) if self._fitted is not None else None
        self._experience.rebase(self.version)
        learned_on = self._learned is not NOTHING_LEARNED and self._learned.base_version == self.version
        self._telemetry.estimator(self.version, self._learned_version if learned_on else "")

    def _fit(self, fleet: Fleet) -> _Fitted:
        sources = []
        if self.plugin is not None:
            sources.append(_Source(self.plugin.name, self.plugin.version, 0.0, self.plugin.estimator, True))
        if (trained := self._trained) is not None:
            estimator = TrainedEstimator(trained.for_fleet(fleet))
            sources.append(_Source("of the policy", self._trained_version, trained.kappa, estimator, False))
        learned = None
        if self._learned is not NOTHING_LEARNED and self._learned.base_version == self.version:
            learned = self._learned.for_fleet([model.name for model in fleet.models])
        version = self._learned_version if learned is not None else ""
        return _Fitted(fleet, tuple(sources), learned, version)

    def _asked(self, source: _Source, question: Question, fleet: Fleet) -> Forecast | None:
        """Return what a source says; None: it failed."""
        try:
            said = source.estimator.forecast(question, fleet)
            return checked(said, len(fleet.models)) if source.foreign else said
        except Exception as error:  # noqa: BLE001 - whatever it raises, the request goes on
            self._telemetry.estimator_failed()
            if self._clock() >= self._silent_until:
                self._silent_until = self._clock() + SAID_AGAIN
                # The text of others' errors may quote the request.
                why = str(error) if isinstance(error, ForecastError) else type(error).__name__
                log.error("the estimator %s failed, other estimates count instead: %s", source.name, why)
            return None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that an answer took since it was asked for."""

    first: float | None
    """Until its first part came; None: it came whole."""
    whole: float
