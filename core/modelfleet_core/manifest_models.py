"""Stage spec: which models a RoutingPolicy lets requests use, and by which other names they may be asked for.

In: the fields of a manifest. Out: typed values, or one `SpecError`. Next: `manifest_policy` joins them.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_core.errors import SpecError
from modelfleet_core.manifest_fields import MODEL_NAME, MODEL_RULE, Fields, shown
from modelfleet_core.policy import EVERY_MODEL, ROUTED, ModelChoice
from modelfleet_core.values import ModelName

MAX_MODELS = 64
MAX_ALIASES = 64
LONGEST = 128


def read_models(fields: Fields, name: str) -> frozenset[ModelName]:
    """Return a list of models' names; absent: none."""
    if not fields.has(name):
        return frozenset()
    names = fields.names(name, pattern=MODEL_NAME, rule=MODEL_RULE, most=MAX_MODELS, longest=LONGEST)
    return frozenset(map(ModelName, names))


def read_choice(parent: Fields) -> ModelChoice:
    """Return what `models` of `parent` lets be used; absent: every model."""
    fields = parent.child("models")
    allow, deny = read_models(fields, "allow"), read_models(fields, "deny")
    if allow and not allow - deny:
        raise SpecError(fields.path, "allows no model that it does not deny", "take one of them off deny")
    return ModelChoice(allow or None, deny) if allow or deny else EVERY_MODEL


def read_aliases(spec: Fields) -> Mapping[str, str]:
    """Return what each name that clients may ask for stands for: `auto` or a model."""
    aliases = spec.texts("aliases", most=MAX_ALIASES, longest=LONGEST)
    path = spec.at("aliases")
    for name, target in aliases.items():
        if name == ROUTED or not MODEL_NAME.fullmatch(name):
            what = "auto is routed anyway: write another" if name == ROUTED else f"write {MODEL_RULE}"
            raise SpecError(path, f"the name {shown(name)} is refused", what)
        if not MODEL_NAME.fullmatch(target):
            raise SpecError(f"{path}.{name}", f"{shown(target)} is refused", "write auto or a model's name")
    return aliases
