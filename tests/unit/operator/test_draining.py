"""Replicas that go leave the leases first, and go once nothing runs there or the longest request is over."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from modelfleet_core.values import EndpointUrl, ModelName, VariantKey
from modelfleet_operator.draining import LEAD, Draining, Held, Step, next_step
from modelfleet_operator.observe import Observer
from modelfleet_operator.scale import Patch, next_patches
from modelfleet_operator.views import FleetView
from support.manifests import Manifest, fleet_manifest
from support.snapshots import deployment_object, event, node_object, observed, slice_object, view_of

LARGE = VariantKey(ModelName("large"), "h100")
LONGEST = 60.0
A, B, C = (EndpointUrl(f"http://10.0.0.{number}:8000") for number in (1, 2, 3))


def _named(slice_: Manifest, deployment: str = "large") -> Manifest:
    for endpoint in slice_["endpoints"]:
        endpoint["targetRef"]["name"] = f"{deployment}-abc-{endpoint['targetRef']['uid']}"
    return slice_


class _Fleet:
    """One model with pods at 10.0.0.1, .2 and .3, as a leader sees and drains it."""

    def __init__(self, *, replicas: int = 3, ready: int = 3, name: str = "large") -> None:
        self.observer: Observer = observed(
            fleet_manifest(),
            node_object("a", gpus=8),
            deployment_object("large", replicas=replicas) | {"status": _status(replicas, ready)},
        )
        addresses = [f"10.0.0.{number + 1}" for number in range(ready)]
        self.observer.apply(event(_named(slice_object("large", *addresses), name)))
        self.draining = Draining()

    @property
    def view(self) -> FleetView:
        return view_of(self.observer)

    def step(
        self,
        desired: int,
        slots: Mapping[EndpointUrl, int],
        now: float,
        *,
        leased: frozenset[str] | None = None,
    ) -> Step:
        """Decide, and do what the shell does: take the pods out of the leases, mark what is to be marked."""
        view = self.view
        patches = next_patches(view, {LARGE: desired}, external=0)
        urls = leased if leased is not None else frozenset(view.endpoints[LARGE])
        held = Held(slots, {EndpointUrl(url) for url in urls})
        step = next_step(view, patches, self.draining, held, now=now, longest=LONGEST)
        self.draining = step.draining.marked(step.mark, now)
        self.observer.drain(view.fleet.key, self.draining.pods)
        return step

    @property
    def leased(self) -> set[EndpointUrl]:
        return set(self.view.endpoints[LARGE])


def _status(replicas: int, ready: int) -> dict[str, int]:
    return {"replicas": replicas, "readyReplicas": ready}


def _replicas(patches: tuple[Patch, ...]) -> list[int]:
    return [patch.replicas for patch in patches]


def _names(step: Step) -> list[str]:
    return [pod.url for pod in step.mark]


def test_the_pod_with_the_fewest_slots_in_use_is_leased_no_more_before_anything_is_scaled() -> None:
    fleet = _Fleet()
    step = fleet.step(2, {A: 3, B: 1, C: 2}, 0.0)
    assert (step.patches, step.mark) == ((), ())
    assert fleet.leased == {A, C}


def test_a_pod_without_requests_is_marked_and_goes_once_controllers_know_the_mark() -> None:
    fleet = _Fleet()
    fleet.step(2, {B: 1, A: 3, C: 3}, 0.0)
    assert not fleet.step(2, {B: 1, A: 3, C: 3}, 5.0).mark  # its last request runs
    marked = fleet.step(2, {A: 3, C: 3}, 6.0)
    assert (_names(marked), marked.patches) == ([B], ())
    assert not fleet.step(2, {A: 3, C: 3}, 6.0 + LEAD / 2).patches
    assert _replicas(fleet.step(2, {A: 3, C: 3}, 6.0 + LEAD).patches) == [2]


def test_a_pod_at_which_slots_may_still_be_granted_is_not_free() -> None:
    fleet = _Fleet()
    fleet.step(2, {}, 0.0)
    assert not fleet.step(2, {}, 1.0, leased=frozenset({A, B, C})).mark
    assert fleet.step(2, {}, 2.0).mark


def test_after_the_longest_request_a_pod_goes_though_slots_are_held_there() -> None:
    fleet = _Fleet()
    slots = {A: 1, B: 2, C: 2}
    fleet.step(2, slots, 0.0)
    assert not fleet.step(2, slots, LONGEST - 0.1).mark
    assert _names(fleet.step(2, slots, LONGEST)) == [A]
    assert _replicas(fleet.step(2, slots, LONGEST + LEAD).patches) == [2]


def test_replicas_that_are_not_ready_go_at_once_and_ready_ones_stay_leased() -> None:
    fleet = _Fleet(replicas=3, ready=2)
    step = fleet.step(2, {A: 1, B: 1}, 0.0)
    assert _replicas(step.patches) == [2]
    assert fleet.leased == {A, B}


def test_what_is_free_goes_while_others_still_drain() -> None:
    fleet = _Fleet()
    slots = {A: 0, B: 1, C: 3}
    fleet.step(1, slots, 0.0)
    assert fleet.leased == {C}
    assert _names(fleet.step(1, slots, 1.0)) == [A]
    assert _replicas(fleet.step(1, slots, 1.0 + LEAD).patches) == [2]


def test_a_new_leader_waits_for_sidecars_that_have_not_told_it_what_they_hold() -> None:
    fleet = _Fleet()
    fleet.step(2, {}, 0.0)
    unheard = Held({}, set(), heard_all=False)
    patches = next_patches(fleet.view, {LARGE: 2}, external=0)
    assert not next_step(fleet.view, patches, fleet.draining, unheard, now=1.0, longest=LONGEST).mark
    late = next_step(fleet.view, patches, fleet.draining, unheard, now=LONGEST, longest=LONGEST)
    assert len(late.mark) == 1


def test_requests_count_before_slots_that_are_only_held() -> None:
    fleet = _Fleet()
    held = Held({A: 1, B: 8, C: 8}, set(), in_flight={A: 1, C: 2})
    patches = next_patches(fleet.view, {LARGE: 2}, external=0)
    step = next_step(fleet.view, patches, Draining(), held, now=0.0, longest=LONGEST)
    assert [leaving.pod.url for leaving in step.draining.leaving.values()] == [B]


def test_a_plan_that_wants_the_replica_again_gives_its_slots_back() -> None:
    fleet = _Fleet()
    fleet.step(2, {A: 1, B: 2, C: 2}, 0.0)
    step = fleet.step(3, {A: 1, B: 2, C: 2}, 1.0)
    assert (step.patches, step.unmark) == ((), ())
    assert fleet.leased == {A, B, C}


def test_the_mark_is_taken_off_a_pod_that_stays_after_all() -> None:
    fleet = _Fleet()
    fleet.step(2, {B: 1, C: 1}, 0.0)
    assert _names(fleet.step(2, {B: 1, C: 1}, 1.0)) == [A]
    assert [pod.url for pod in fleet.step(3, {B: 1, C: 1}, 1.2).unmark] == [A]
    assert fleet.leased == {A, B, C}


def test_a_choice_stays_though_another_pod_has_fewer_requests_now() -> None:
    fleet = _Fleet()
    fleet.step(2, {A: 1, B: 2, C: 2}, 0.0)
    fleet.step(2, {A: 1, B: 0, C: 0}, 1.0)
    assert fleet.leased == {B, C}


def test_after_the_patch_its_pod_is_not_leased_again_until_it_is_gone() -> None:
    fleet = _Fleet()
    fleet.step(2, {B: 1, C: 1}, 0.0)
    fleet.step(2, {B: 1, C: 1}, 1.0)
    (patch,) = fleet.step(2, {B: 1, C: 1}, 2.0).patches
    fleet.observer.scaled(patch.target, patch.replicas)
    assert fleet.step(2, {B: 1, C: 1}, 2.1).patches == ()
    assert fleet.leased == {B, C}
    fleet.observer.apply(event(_named(slice_object("large", "10.0.0.2", "10.0.0.3"))))
    fleet.step(2, {B: 1, C: 1}, 2.2)
    assert not fleet.draining.leaving
    assert fleet.leased == {B, C}


def test_what_others_scale_down_is_not_drained_by_us() -> None:
    fleet = _Fleet()
    fleet.observer.apply(event(deployment_object("large", replicas=2) | {"status": _status(3, 3)}))
    fleet.step(2, {}, 0.0)
    assert fleet.leased == {A, B, C}


def test_pods_that_are_not_the_deployments_own_go_the_old_way() -> None:
    fleet = _Fleet(name="other")
    step = fleet.step(2, {A: 3, B: 1, C: 2}, 0.0)
    assert _replicas(step.patches) == [2]
    assert step.blind == (LARGE,)
    assert fleet.leased == {A, B, C}


def test_a_leader_that_begins_leases_every_pod_again_and_drains_anew() -> None:
    fleet = _Fleet()
    fleet.step(2, {A: 1, B: 2, C: 2}, 0.0)
    fleet.draining = Draining()
    fleet.observer.drain(fleet.view.fleet.key, frozenset())
    assert fleet.leased == {A, B, C}
    assert fleet.step(2, {A: 2, B: 2, C: 1}, 100.0).patches == ()
    assert fleet.draining.leaving[f"pod-{3}"].since == 100.0
    assert fleet.draining.leaving[f"pod-{3}"].marked_at == inf
