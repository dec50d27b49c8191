"""Stage forward, API keys of external models: files that the kubelet mounts, `<folder>/<secret>/<key>`, or,
without an operator, variables of the environment, `MODELFLEET_KEY_<SECRET>_<KEY>`.

In: which Secret and key a variant names. Out: the key, for `connection` to send and `upstream_errors` to
hide, or nothing: then `prospect` leaves the variant out. No log, metric, explanation or error holds a key.
"""

from __future__ import annotations

import logging
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from modelfleet_core.catalog import ExternalPlacement, Fleet, SecretKey, Variant

log = logging.getLogger(__name__)

READ_AGAIN = 1.0
"""Seconds after which a file is read anew."""
MAX_KEY = 8 * 1024
NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})
_HEADER = re.compile(r"[!-~]+")
"""What can stand in a header, without blanks."""


class MissingKeyError(Exception):
    """There is no key that could be sent; says why, without any part of it."""


class ApiKeys:
    """The keys under one folder; None: nothing is mounted. Times are on the sidecar's clock."""

    def __init__(
        self,
        folder: Path | None,
        clock: Callable[[], float],
        environ: Mapping[str, str] = NO_ENVIRONMENT,
    ) -> None:
        """`environ`: where keys are looked for that the folder does not have."""
        self._folder = folder
        self._environ = environ
        self._clock = clock
        self._read: dict[SecretKey, tuple[float, str | None]] = {}
        self._told: dict[SecretKey, str] = {}
        """What was logged last of each key that is missing."""

    def find(self, ref: SecretKey) -> str | None:
        """Return the key; None: there is none that could be sent, which is logged once."""
        now = self._clock()
        known = self._read.get(ref)
        if known is not None and now - known[0] < READ_AGAIN:
            return known[1]
        try:
            key: str | None = self._load(ref)
        except MissingKeyError as missing:
            key = None
            self._tell(ref, str(missing))
        else:
            if self._told.pop(ref, None) is not None:
                log.info("the API key %s is there now", ref)
        self._read[ref] = (now, key)
        return key

    def lacks(self, variant: Variant) -> bool:
        """Return whether a variant can not be asked because its key is missing."""
        placement = variant.placement
        ref = placement.api_key if isinstance(placement, ExternalPlacement) else None
        return ref is not None and self.find(ref) is None

    def missing(self, fleet: Fleet) -> int:
        """Return how many keys the fleet names that are not there."""
        return sum(self.find(ref) is None for ref in set(_named(fleet.variants())))

    def _load(self, ref: SecretKey) -> str:
        name = environment_name(ref)
        if name in self._environ:
            return _checked(self._environ[name], name)
        if self._folder is None:
            raise MissingKeyError("MODELFLEET_KEYS names no folder")
        path = self._folder / ref.name / ref.key
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise MissingKeyError(f"{path} is no file")
            with path.open("rb") as file:
                data = file.read(MAX_KEY + 1)
        except OSError as error:
            raise MissingKeyError(
                f"{path} can not be read: {error.strerror or type(error).__name__}"
            ) from None
        if len(data) > MAX_KEY:
            raise MissingKeyError(f"{path} is over {MAX_KEY} bytes")
        return _checked(data.decode("latin-1"), str(path))

    def _tell(self, ref: SecretKey, problem: str) -> None:
        if self._told.get(ref) != problem:
            self._told[ref] = problem
            log.warning(
                "no API key %s, so the models that need it are not used: %s; %s",
                ref,
                problem,
                self._remedy(ref),
            )

    def _remedy(self, ref: SecretKey) -> str:
        if self._environ is not NO_ENVIRONMENT:
            return f"set {environment_name(ref)}, or MODELFLEET_KEYS to a folder with the file {ref}"
        return "create the Secret, and restart the pod if it is older than the reference to the Secret"


def environment_name(ref: SecretKey) -> str:
    """Return the variable that holds a key where there is no operator."""
    return "MODELFLEET_KEY_" + re.sub(r"[^A-Z0-9]", "_", f"{ref.name}_{ref.key}".upper())


def _checked(text: str, where: str) -> str:
    key = text.rstrip("\r\n")
    if len(key) > MAX_KEY or not _HEADER.fullmatch(key):
        raise MissingKeyError(f"{where} is empty or holds blanks, line breaks or letters outside ASCII")
    return key


def _named(variants: Iterable[Variant]) -> Iterable[SecretKey]:
    for variant in variants:
        if isinstance(variant.placement, ExternalPlacement) and variant.placement.api_key is not None:
            yield variant.placement.api_key
