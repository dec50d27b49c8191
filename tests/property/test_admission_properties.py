"""G18: whatever a token and a report say, a sidecar gets only what its own pod may have."""

from __future__ import annotations

from typing import TypeVar

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import TokenReview
from modelfleet_operator.identity import AdmissionError, Caller, caller_of
from modelfleet_operator.publishing import policy_and_fleet
from modelfleet_operator.world import World
from support.manifests import fleet_manifest, policy_manifest
from support.snapshots import observed, pod_object

pytestmark = pytest.mark.property

T = TypeVar("T")
NAMESPACES, PODS = ("red", "blue"), ("one", "two")
POD, UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
names = st.sampled_from(("one", "two", "uid-one", "red", "blue", ""))


def mostly(usual: T, others: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Return a strategy that often gives what is admitted, so that both outcomes are tried."""
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), others)


reviews = st.builds(
    TokenReview,
    authenticated=mostly(True, st.booleans()),
    user=mostly(
        "system:serviceaccount:red:default",
        st.one_of(st.text(max_size=20), st.builds("system:serviceaccount:{}:{}".format, names, names)),
    ),
    audiences=mostly(
        ("modelfleet",), st.lists(st.sampled_from(("modelfleet", "other")), max_size=2).map(tuple)
    ),
    extra=mostly(
        {POD: ("one",), UID: ("uid-one",)},
        st.dictionaries(st.sampled_from((POD, UID)), st.lists(names, max_size=2).map(tuple), max_size=2),
    ),
    error=st.text(max_size=10),
)
senders = mostly(
    SidecarId("red", "one", "uid-one", "1"), st.builds(SidecarId, names, names, names, st.just("1"))
)


def _admitted(review: TokenReview, sender: SidecarId) -> bool:
    try:
        caller_of(review, "modelfleet").check(sender)
    except AdmissionError:
        return False
    return True


@given(reviews, senders)
def test_a_report_passes_only_as_the_pod_of_a_token_for_this_audience(
    review: TokenReview, sender: SidecarId
) -> None:
    prefix = f"system:serviceaccount:{sender.namespace}:"
    its_own = (
        review.authenticated
        and "modelfleet" in review.audiences
        and sender.namespace != ""
        and review.user.startswith(prefix)
        and review.user != prefix
        and review.extra.get(POD) == (sender.pod,) != ("",)
        and review.extra.get(UID) == (sender.uid,) != ("",)
    )
    event(f"admitted: {its_own}")
    assert _admitted(review, sender) == its_own


@given(
    pods=st.sets(st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(PODS)), min_size=2),
    policies=st.sets(st.sampled_from(NAMESPACES), min_size=1),
    fleets=st.sets(st.sampled_from(NAMESPACES), min_size=1),
    named=st.sampled_from(("", "assistant", "red/assistant", "blue/assistant")),
    caller=st.builds(
        Caller, st.sampled_from(NAMESPACES), st.sampled_from(PODS), st.sampled_from(("uid-one", "uid-two"))
    ),
)
def test_a_pod_follows_a_policy_of_its_own_namespace_or_none(
    pods: set[tuple[str, str]], policies: set[str], fleets: set[str], named: str, caller: Caller
) -> None:
    manifests = [fleet_manifest(namespace=namespace) for namespace in sorted(fleets)]
    manifests += [policy_manifest(namespace=namespace) for namespace in sorted(policies)]
    manifests += [pod_object(name, namespace=namespace, policy=named) for namespace, name in sorted(pods)]
    sidecar = SidecarId(caller.namespace, caller.pod, caller.uid, "1")
    found = policy_and_fleet(World(observed(*manifests)), sidecar)
    event(f"follows: {not isinstance(found, str)}")
    if isinstance(found, str):
        assert found
        return
    policy, fleet = found
    assert policy.namespace == fleet.namespace == caller.namespace
    assert (caller.namespace, caller.pod) in pods
    assert caller.uid == f"uid-{caller.pod}"
    assert policy == ObjectKey(caller.namespace, "assistant")
