"""One file with a fleet and a policy: read, or refused with what to do."""

from __future__ import annotations

import pytest
import yaml
from modelfleet_core.values import ObjectKey
from modelfleet_sidecar.standalone.manifests import MOST_BYTES, ManifestError, read_manifests
from support.standalone import Manifest, fleet, policy


def text(*manifests: Manifest) -> bytes:
    return yaml.safe_dump_all(manifests).encode()


def test_a_file_declares_a_fleet_and_a_policy_in_any_order() -> None:
    declared = read_manifests(text(policy(), fleet({"small": "http://127.0.0.1:9"})) + b"\n---\n")
    assert declared.fleet.key == declared.policy.fleet == ObjectKey("default", "laptop")
    assert [model.name for model in declared.fleet.models] == ["small"]
    assert declared.unknown == ()


def test_fields_that_no_one_knows_are_told() -> None:
    declared = read_manifests(text(policy(bugdet={"limit": 1}), fleet({"small": "http://127.0.0.1:9"})))
    assert declared.unknown == ("RoutingPolicy spec.bugdet",)


POOLED: Manifest = {
    "apiVersion": "modelfleet.io/v1alpha1",
    "kind": "ModelFleet",
    "metadata": {"name": "laptop"},
    "spec": {
        "pools": [{"name": "gpu", "limit": 1, "hourlyCost": 1}],
        "models": [
            {
                "name": "small",
                "variants": [
                    {
                        "name": "gpu",
                        "pool": "gpu",
                        "gpus": 1,
                        "scaleTargetRef": {"name": "small"},
                        "service": {"name": "small", "port": 8000},
                        "concurrency": 4,
                    }
                ],
            }
        ],
    },
}
FLEET = fleet({"small": "http://127.0.0.1:9"})


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "0 ModelFleets and 0 RoutingPolicies"),
        (text(FLEET), "1 ModelFleets and 0 RoutingPolicies"),
        (text(FLEET, FLEET, policy()), "2 ModelFleets"),
        (text(FLEET, {"kind": "Deployment"}), "document 2 is no ModelFleet"),
        (b"- 1\n", "document 1 is no ModelFleet"),
        (text(POOLED, policy()), "give it external"),
        (text(FLEET, policy(fleetRef={"name": "other"})), "names default/other"),
        (text(FLEET, policy(budget={"limit": 0.5})), "RoutingPolicy: spec.budget.limit: 0.5 is not quoted"),
        (b"a: [1\n", "it is no YAML"),
        (b"\xff\xfe\x00", "no UTF-8"),
        (b"a: 1\na: 2\n", "line 2 has the field 'a' a second time"),
        (b"a: &x [1]\nb: *x\n", r"line 2 refers to an anchor"),
        (b"[" * 40 + b"]" * 40, "nests too deep"),
        (b"[" + b"1," * 110_000 + b"]", "is too long"),
        (b"#" * (MOST_BYTES + 1), "is over"),
        (b"!!python/object/apply:os.system ['true']\n", "it is no YAML"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused_with_what_to_do(data: bytes, told: str) -> None:
    with pytest.raises(ManifestError) as refused:
        read_manifests(data)
    assert told in str(refused.value)
