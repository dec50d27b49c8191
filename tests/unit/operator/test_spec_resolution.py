"""One bad object never stops the others (G15), and no Deployment gets two owners (G16)."""

from __future__ import annotations

from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import ModelName, ObjectKey, VariantKey
from modelfleet_operator.observe import Observer
from modelfleet_operator.publishing import capacity, documents, policy_and_fleet
from modelfleet_operator.spec import Resolution, resolve
from modelfleet_operator.world import World
from support.manifests import Manifest, fleet_manifest, policy_manifest
from support.snapshots import deployment_object, event, observed, pod_object, slice_object, view_of

CHAT, OTHER = ObjectKey("ml", "chat"), ObjectKey("ml", "other")
ASSISTANT, SECOND = ObjectKey("ml", "assistant"), ObjectKey("ml", "second")
LARGE = VariantKey(ModelName("large"), "h100")


def _resolved(observer: Observer) -> Resolution:
    return resolve(observer.snapshot())


def _created(manifest: Manifest, moment: str) -> Manifest:
    manifest["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{moment}Z"
    return manifest


def _another_fleet(name: str, target: str) -> Manifest:
    manifest = fleet_manifest(name)
    variant = manifest["spec"]["models"][0]["variants"][0]
    variant["scaleTargetRef"]["name"] = variant["service"]["name"] = target
    return manifest


def test_a_fleet_that_can_not_be_parsed_leaves_the_others_in_force() -> None:
    bad = _another_fleet("other", "others")
    bad["spec"]["pools"] = "none"
    resolution = _resolved(observed(bad, fleet_manifest(), deployment_object("large")))
    assert resolution.fleets[CHAT].accepted.holds
    assert resolution.fleets[CHAT].resolved_refs.holds
    refused = resolution.fleets[OTHER]
    assert refused.fleet is None
    assert refused.accepted.reason == "Invalid"
    assert "spec.pools" in refused.accepted.message


def test_a_bad_edit_leaves_the_last_good_spec_in_force() -> None:
    manifest = fleet_manifest()
    observer = observed(manifest)
    manifest["spec"] = manifest["spec"] | {"models": []}
    manifest["metadata"]["generation"] = 2
    observer.apply(event(manifest))
    resolved = _resolved(observer).fleets[CHAT]
    assert resolved.fleet is not None
    assert not resolved.accepted.holds
    assert "stays in force" in resolved.accepted.message


def test_a_recreated_object_does_not_inherit_a_spec() -> None:
    manifest = fleet_manifest()
    observer = observed(manifest)
    manifest["metadata"]["uid"] = "another"
    manifest["spec"] = {}
    observer.apply(event(manifest))
    assert _resolved(observer).fleets[CHAT].fleet is None


def test_unknown_fields_are_named_but_do_no_harm() -> None:
    manifest = fleet_manifest()
    manifest["spec"]["mood"] = "Active"
    accepted = _resolved(observed(manifest)).fleets[CHAT].accepted
    assert accepted.holds
    assert accepted.reason == "UnknownFields"
    assert "spec.mood" in accepted.message


def test_models_of_accounts_that_the_fleet_has_not_are_named_but_do_no_harm() -> None:
    policy = policy_manifest()
    policy["spec"]["quotas"] = [{"models": ["frontier", "frontire"], "requests": 5}]
    resolved = _resolved(observed(fleet_manifest(), policy, deployment_object("large"))).policies[ASSISTANT]
    assert resolved.in_force
    assert resolved.resolved_refs.reason == "UnknownModels"
    assert "has no model frontire," in resolved.resolved_refs.message


def test_a_judges_model_that_the_fleet_has_not_is_named_but_does_no_harm() -> None:
    policy = policy_manifest()
    policy["spec"]["judge"] = {"model": "jury", "share": "2%", "budget": {"limit": 1}}
    resolved = _resolved(observed(fleet_manifest(), policy, deployment_object("large"))).policies[ASSISTANT]
    assert resolved.in_force
    assert "has no model jury, which judge names: nothing is scored" in resolved.resolved_refs.message


def test_models_of_rules_and_the_default_that_the_fleet_has_not_are_named_but_do_no_harm() -> None:
    policy = policy_manifest()
    policy["spec"]["defaultModel"] = "largest"
    policy["spec"]["rules"] = [
        {"name": "a", "match": {"anyKeyword": ["x"]}, "prefer": {"models": ["large", "tiny"], "bonus": 1}},
        {"name": "b", "match": {"anyKeyword": ["y"]}, "models": {"allow": ["small"]}},
        {"name": "c", "models": {"deny": ["frontier"]}},
    ]
    resolved = _resolved(observed(fleet_manifest(), policy, deployment_object("large"))).policies[ASSISTANT]
    assert resolved.in_force
    assert resolved.resolved_refs.reason == "UnknownModels"
    for said in (
        "has no model tiny, which rule a names",
        "has no model small, which rule b names",
        "none of the models that rule b allows, so that its requests are refused",
        "has no model largest, which defaultModel names",
    ):
        assert said in resolved.resolved_refs.message
    assert "rule c" not in resolved.resolved_refs.message


def test_models_of_the_policy_its_tiers_and_aliases_that_the_fleet_has_not_are_named() -> None:
    policy = policy_manifest()
    policy["spec"]["models"] = {"deny": ["ancient"]}
    policy["spec"]["aliases"] = {"gpt-4o": "auto", "big": "largest"}
    policy["spec"]["tiers"][0]["models"] = {"allow": ["tiny"]}
    resolved = _resolved(observed(fleet_manifest(), policy, deployment_object("large"))).policies[ASSISTANT]
    assert resolved.in_force
    assert resolved.resolved_refs.reason == "UnknownModels"
    for said in (
        "has no model ancient, which models of the policy name: it does nothing there",
        "has no model tiny, which models of tier gold name",
        "none of the models that tier gold allows, so that its requests are refused",
        "has no model largest, which aliases stand for: requests for these are refused",
    ):
        assert said in resolved.resolved_refs.message
    assert "that the policy allows" not in resolved.resolved_refs.message


def test_the_younger_of_two_fleets_on_one_deployment_stays_out() -> None:
    younger = _created(_another_fleet("other", "large"), "02")
    older = _created(fleet_manifest(), "01")
    for order in ((younger, older), (older, younger)):
        resolution = _resolved(observed(*order, deployment_object("large")))
        assert resolution.fleets[CHAT].fleet is not None
        assert resolution.fleets[OTHER].fleet is None
        assert resolution.fleets[OTHER].accepted.reason == "Conflicted"
        assert "older fleet chat" in resolution.fleets[OTHER].accepted.message


def test_the_newcomer_gets_the_deployment_once_its_owner_is_gone() -> None:
    older = _created(fleet_manifest(), "01")
    observer = observed(older, _created(_another_fleet("other", "large"), "02"))
    observer.apply(event(older, deleted=True))
    assert _resolved(observer).fleets[OTHER].accepted.holds


def test_two_fleets_never_count_the_slots_of_one_service() -> None:
    younger = _created(_another_fleet("other", "others"), "02")
    younger["spec"]["models"][0]["variants"][0]["service"]["name"] = "large"
    resolution = _resolved(observed(_created(fleet_manifest(), "01"), younger))
    assert resolution.fleets[OTHER].accepted.reason == "Conflicted"


def test_a_deployment_that_an_autoscaler_scales_is_reported_and_left_alone() -> None:
    workload = deployment_object("large", replicas=3)
    workload["metadata"]["managedFields"] = [
        {
            "manager": "kube-controller-manager",
            "subresource": "scale",
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        }
    ]
    observer = observed(fleet_manifest(), workload)
    resolved = _resolved(observer).fleets[CHAT]
    assert resolved.resolved_refs.reason == "ReplicasOwnedElsewhere"
    assert "HorizontalPodAutoscaler" in resolved.resolved_refs.message
    view = view_of(observer)
    assert view.scalable == frozenset()
    variant = view.fleet.variant(LARGE)
    assert variant is not None
    assert "replicas=Replicas(min=3, max=3)" in repr(variant.placement)


def test_a_missing_deployment_is_named() -> None:
    refs = _resolved(observed(fleet_manifest())).fleets[CHAT].resolved_refs
    assert refs.reason == "TargetNotFound"
    assert "large" in refs.message


def test_a_policy_waits_for_its_fleet() -> None:
    policy, pod = policy_manifest(), pod_object("assistant-0")
    resolution = _resolved(observed(policy, pod))
    assert resolution.policies[ASSISTANT].accepted.holds
    assert resolution.policies[ASSISTANT].resolved_refs.reason == "FleetNotFound"
    assert "create it" in str(resolution.selection[ObjectKey("ml", "assistant-0")])
    resolution = _resolved(observed(policy, pod, fleet_manifest()))
    assert resolution.selection[ObjectKey("ml", "assistant-0")] == Follows(ASSISTANT, CHAT)


def test_a_policy_of_a_refused_fleet_is_not_in_force() -> None:
    bad = fleet_manifest()
    bad["spec"] = {}
    observer = observed(bad, policy_manifest())
    resolution = _resolved(observer)
    assert resolution.policies[ASSISTANT].resolved_refs.reason == "FleetNotAccepted"
    assert documents(resolution).policies == {}


def test_of_two_policies_for_one_pod_the_older_wins_and_the_younger_says_so() -> None:
    observer = observed(
        fleet_manifest(),
        _created(policy_manifest("second"), "02"),
        _created(policy_manifest(), "01"),
        pod_object("assistant-0"),
    )
    resolution = _resolved(observer)
    assert resolution.selection[ObjectKey("ml", "assistant-0")] == Follows(ASSISTANT, CHAT)
    assert resolution.policies[ASSISTANT].accepted.holds
    assert resolution.policies[SECOND].accepted.reason == "Conflicted"
    assert "assistant-0" in resolution.policies[SECOND].accepted.message


def test_the_annotation_of_a_pod_decides_over_age() -> None:
    observer = observed(
        fleet_manifest(),
        _created(policy_manifest("second"), "02"),
        _created(policy_manifest(), "01"),
        pod_object("assistant-0", policy="second"),
    )
    resolution = _resolved(observer)
    assert resolution.selection[ObjectKey("ml", "assistant-0")] == Follows(SECOND, CHAT)
    assert resolution.policies[SECOND].accepted.holds


def _asked(observer: Observer, *, pod: str = "assistant-0", uid: str = "uid-assistant-0") -> object:
    return policy_and_fleet(World(observer), SidecarId("ml", pod, uid, "boot"))


def test_a_sidecar_is_told_why_it_gets_nothing() -> None:
    observer = observed(
        fleet_manifest(),
        policy_manifest(),
        pod_object("assistant-0"),
        pod_object("stranger", app="stranger"),
        pod_object("astray", policy="missing"),
    )
    assert _asked(observer) == (ASSISTANT, CHAT)
    assert "there is no pod ml/missing" in str(_asked(observer, pod="missing"))
    assert "UID" in str(_asked(observer, uid="another"))
    assert "podSelector" in str(_asked(observer, pod="stranger", uid="uid-stranger"))
    assert "annotation" in str(_asked(observer, pod="astray", uid="uid-astray"))


def test_a_sidecar_without_a_policy_is_told_of_one_that_was_refused() -> None:
    refused = policy_manifest()
    refused["spec"]["budget"] = {"limit": "60", "shares": [{"models": ["small"], "max": "150%"}]}
    elsewhere = policy_manifest("other", "elsewhere")
    elsewhere["spec"]["budget"] = {"limit": "much"}
    told = str(_asked(observed(fleet_manifest(), refused, elsewhere, pod_object("assistant-0"))))
    assert "RoutingPolicy assistant is not accepted: spec.budget.shares[0].max" in told
    assert "other" not in told
    assert "create one" not in told


def test_what_is_published_is_what_is_in_force() -> None:
    observer = observed(fleet_manifest(), policy_manifest(), slice_object("large", "10.0.0.1"))
    present = World(observer).now()
    assert capacity(present)[CHAT][LARGE] == {"http://10.0.0.1:8000": 8}
    assert set(documents(present.resolution).fleets) == {CHAT}
    assert set(documents(present.resolution).policies) == {ASSISTANT}
