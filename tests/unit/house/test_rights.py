"""The comparison of rights tells what is granted without need, what is missing, and who else granted it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.rights import difference, used

ACCOUNT, HOME = "op", "system"
USER = f"system:serviceaccount:{HOME}:{ACCOUNT}"


def _role(kind: str, rules: list[dict[str, object]], namespace: str = "") -> list[dict[str, object]]:
    metadata = {"name": "r"} | ({"namespace": namespace} if namespace else {})
    subject = {"kind": "ServiceAccount", "name": ACCOUNT}
    return [
        {"kind": kind, "metadata": metadata, "rules": rules},
        {
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"kind": kind, "name": "r"},
            "subjects": [subject],
        },
    ]


def _rule(resource: str, *verbs: str, **names: list[str]) -> dict[str, object]:
    return {"apiGroups": [""], "resources": [resource], "verbs": list(verbs), **names}


def _line(verb: str, resource: str, namespace: str, name: str = "", *, forbidden: bool = False) -> str:
    decision = "forbid" if forbidden else "allow"
    record = {
        "verb": verb,
        "user": {"username": USER},
        "requestURI": f"/{resource}?x",
        "objectRef": {"resource": resource, "namespace": namespace, "name": name},
        "annotations": {"authorization.k8s.io/decision": decision},
        "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
    }
    return json.dumps(record) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_rights_that_are_used_just_as_granted_differ_in_nothing(log: Path) -> None:
    log.write_text(_line("get", "pods", "ml", "a") + _line("get", "pods", "ml", "b"))
    assert difference(_role("Role", [_rule("pods", "get")], "ml"), log, HOME, ACCOUNT) == []


def test_a_verb_that_nothing_uses_is_told(log: Path) -> None:
    log.write_text(_line("get", "pods", "ml", "a"))
    roles = _role("Role", [_rule("pods", "get", "delete")], "ml")
    assert difference(roles, log, HOME, ACCOUNT) == ["granted, not used: delete pods in ml"]


def test_a_wide_right_is_not_needed_for_what_a_narrow_one_covers(log: Path) -> None:
    log.write_text(_line("get", "pods", "ml", "a"))
    named = _role("Role", [_rule("pods", "get", resourceNames=["a"])], "ml")
    everywhere = _role("ClusterRole", [_rule("pods", "get")])
    assert difference([*named, *everywhere], log, HOME, ACCOUNT) == ["granted, not used: get pods"]


def test_what_is_denied_and_what_others_grant_is_told(log: Path) -> None:
    log.write_text(_line("list", "nodes", "", forbidden=True) + _line("get", "secrets", "ml", "a"))
    assert difference([], log, HOME, ACCOUNT) == [
        "denied: list nodes",
        "allowed by a role that is not the chart's: get secrets a in ml",
    ]


def test_a_path_that_is_no_resource_counts_when_it_is_denied(log: Path) -> None:
    record = json.loads(_line("get", "metrics", "", forbidden=True))
    del record["objectRef"]
    log.write_text(json.dumps(record) + "\n")
    assert difference([], log, HOME, ACCOUNT) == ["denied: get /metrics"]


def test_other_accounts_earlier_requests_and_a_line_that_is_being_written_do_not_count(log: Path) -> None:
    line = _line("get", "pods", "ml")
    log.write_text(line.replace(f":{ACCOUNT}", ":else") + line + line[:40])
    done, _ = used(log, HOME, ACCOUNT)
    assert len(done) == 1
    assert used(log, HOME, ACCOUNT, since=1_800_000_000.0) == (set(), set())
