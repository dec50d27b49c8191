"""Stage spec: what a RoutingPolicy says of the requests that it knows best itself: rules, default, groups.

In: the fields of a manifest. Out: typed values, or one `SpecError`. Next: `manifest_policy` joins them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from modelfleet_core.errors import SpecError
from modelfleet_core.estimation.script import SCRIPTS
from modelfleet_core.manifest_fields import (
    MODEL_NAME,
    MODEL_RULE,
    OBJECT_NAME,
    OBJECT_RULE,
    Fields,
    shown,
    unique,
)
from modelfleet_core.manifest_models import read_choice, read_models
from modelfleet_core.policy import Groups, Rule, RuleMatch
from modelfleet_core.rules import MAX_PATTERN, MAX_PROGRAMS, PatternError, compiled
from modelfleet_core.values import ModelName, TaskName

MAX_RULES = 32
MAX_ANY_KEYWORDS, MAX_ALL_KEYWORDS, MAX_KEYWORD = 64, 16, 64
MAX_TOKENS = 100_000_000
MAX_PARAMS, MAX_PARAMS_TEXT, MAX_PARAMS_DEPTH = 16, 4096, 8
MAX_GROUPS = 32
MAX_BONUS = 1

HEADER = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
TASK = re.compile(r"[!-~]([ -~]*[!-~])?")
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
RESERVED = frozenset(
    (
        *("model", "messages", "prompt", "stream", "stream_options", "n", "best_of", "use_beam_search"),
        *("tools", "tool_choice", "functions", "function_call", "service_tier", "web_search_options"),
        *("prediction", "audio", "modalities", "chat_template", "previous_response_id", "user", "store"),
        *("input", "instructions", "suffix", "conversation", "background"),
    )
)
"""Fields that say what is asked, by whom and how it is answered, or let the cost grow beyond its bound."""


def read_rules(spec: Fields) -> tuple[Rule, ...]:
    declared = spec.children("rules", most=MAX_RULES)
    rules = tuple(map(_rule, declared))
    unique(spec.at("rules"), "rule", (rule.name for rule in rules))
    for fields, rule in zip(declared[:-1], rules, strict=False):
        if rule.match == RuleMatch():
            problem = "is missing or empty, so that the rules below it are never reached"
            raise SpecError(fields.at("match"), problem, "give it a match or make it the last")
    steps = sum(compiled(rule.match.regex).programsize for rule in rules if rule.match.regex)
    if steps > MAX_PROGRAMS:
        problem = f"have patterns of {steps} instructions together, more than {MAX_PROGRAMS}"
        raise SpecError(spec.at("rules"), problem, "write fewer or smaller repetitions or classes")
    return rules


def read_default_model(spec: Fields) -> ModelName | None:
    if not spec.has("defaultModel"):
        return None
    return ModelName(spec.text("defaultModel", pattern=MODEL_NAME, rule=MODEL_RULE, longest=128))


def read_groups(spec: Fields) -> Groups | None:
    if not spec.has("groups"):
        return None
    fields = spec.child("groups")
    header = fields.text("header", pattern=HEADER, rule="the name of a header such as x-team", longest=128)
    values = _texts(fields, "values", most=MAX_GROUPS, longest=128)
    for index, value in enumerate(values):
        if not VALUE.fullmatch(value):
            remedy = "write the header's value, printable without blanks around it"
            raise SpecError(f"{fields.at('values')}[{index}]", f"{shown(value)} is refused", remedy)
    if not values:
        raise SpecError(fields.at("values"), "is missing or empty", f"write 1 to {MAX_GROUPS} values")
    return Groups(header.lower(), values)


def _rule(fields: Fields) -> Rule:
    name = fields.text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE, longest=63)
    prefer, models = fields.child("prefer"), read_choice(fields)
    preferred, bonus = frozenset[ModelName](), 0.0
    if fields.has("prefer"):
        preferred = read_models(prefer, "models")
        if not preferred:
            raise SpecError(prefer.at("models"), "is missing or empty", "name the models to prefer")
        bonus = float(prefer.decimal("bonus", most=MAX_BONUS))
    task = (
        fields.text("task", pattern=TASK, rule="a printable name", longest=63) if fields.has("task") else ""
    )
    return Rule(
        name=name,
        match=_match(fields.child("match")),
        task=TaskName(task) if task else None,
        params=_params(fields),
        allow=models.allow,
        deny=models.deny,
        prefer=preferred,
        bonus=bonus,
    )


def _match(fields: Fields) -> RuleMatch:
    headers = fields.texts("header", most=8)
    unique(fields.at("header"), "header", (name.lower() for name in headers))
    least, most = (
        fields.integer(name, least=0, most=MAX_TOKENS) if fields.has(name) else None
        for name in ("minTokens", "maxTokens")
    )
    if least is not None and most is not None and least > most:
        raise SpecError(
            fields.at("minTokens"), f"is {least}, above maxTokens {most}", "lower it or raise maxTokens"
        )
    regex = ""
    if fields.has("regex"):
        regex = fields.text("regex", pattern=re.compile(r"(?s).+"), rule="a pattern", longest=MAX_PATTERN)
        try:
            compiled(regex)
        except PatternError as error:
            problem, _, remedy = str(error).partition("; ")
            raise SpecError(fields.at("regex"), problem, remedy) from None
    return RuleMatch(
        any_keyword=_texts(fields, "anyKeyword", most=MAX_ANY_KEYWORDS, longest=MAX_KEYWORD),
        all_keywords=_texts(fields, "allKeywords", most=MAX_ALL_KEYWORDS, longest=MAX_KEYWORD),
        regex=regex,
        headers={name.lower(): value for name, value in headers.items()},
        min_tokens=least,
        max_tokens=most,
        script=fields.choice("script", SCRIPTS) if fields.has("script") else "",
    )


def _texts(fields: Fields, name: str, *, most: int, longest: int) -> tuple[str, ...]:
    """Return a list of different texts in their order; absent: none."""
    found = fields.strings(name, most=most, longest=longest)
    for index, text in enumerate(found):
        if not text.strip():
            raise SpecError(f"{fields.at(name)}[{index}]", "is empty", "write letters or remove it")
    unique(fields.at(name), "entry", found)
    return found


def _params(fields: Fields) -> Mapping[str, object]:
    """Return parameters of the OpenAI request; any JSON of bounded size."""
    params = fields.json("params", most=MAX_PARAMS, longest=MAX_PARAMS_TEXT, deepest=MAX_PARAMS_DEPTH)
    path = fields.at("params")
    for name, value in params.items():
        if name in RESERVED:
            problem = "says what is asked, by whom or how it is answered, which only the caller may"
            raise SpecError(f"{path}.{name}", problem, "remove it")
        if name in TOKEN_LIMITS and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SpecError(f"{path}.{name}", f"is {shown(value)}", "write a whole number above 0")
    return params
