"""What a scheduler and a kubelet say about a pod, as pure functions over manifests.

In come pods, nodes and the state of a pod's process; out go the node that has room and the pod's status.
`workloads` (embedded) and `node` (beside a real API server) put them into effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from modelfleet_operator.cluster.fields import items, mapping, text, texts
from modelfleet_operator.cluster.processes import ContainerState

_ORDINARY = frozenset({"cpu", "memory", "ephemeral-storage"})


def timestamp(moment: datetime) -> str:
    """Return a UTC moment as Kubernetes writes times."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def requested(pod: Mapping[str, object]) -> Mapping[str, int]:
    """Return the whole units that the pod asks of each extended resource, such as `nvidia.com/gpu`."""
    total: Counter[str] = Counter()
    for container in items(mapping(pod, "spec"), "containers"):
        resources = mapping(container, "resources")
        for name, amount in {**texts(resources, "requests"), **texts(resources, "limits")}.items():
            if name not in _ORDINARY:
                total[name] += int(amount)
    return total


def place(
    pod: Mapping[str, object], nodes: Sequence[Mapping[str, object]], pods: Iterable[Mapping[str, object]]
) -> str | None:
    """Return the first node, by name, that matches the pod's selector and has room beside `pods`, if any.

    Every pod that names a node and has not finished holds its resources, terminating ones too.
    """
    used: dict[str, Counter[str]] = {}
    for other in pods:
        holder = text(mapping(other, "spec"), "nodeName")
        if holder and text(mapping(other, "status"), "phase") not in ("Succeeded", "Failed"):
            used.setdefault(holder, Counter()).update(requested(other))
    wanted = requested(pod)
    selector = texts(mapping(pod, "spec"), "nodeSelector")
    for node in sorted(nodes, key=lambda node: text(mapping(node, "metadata"), "name")):
        metadata = mapping(node, "metadata")
        if (
            mapping(node, "spec").get("unschedulable")
            or not selector.items() <= texts(metadata, "labels").items()
        ):
            continue
        name, status = text(metadata, "name"), mapping(node, "status")
        offered = {key: int(value) for key, value in _resources(status).items() if key not in _ORDINARY}
        taken = used.get(name, Counter())
        if all(taken[resource] + amount <= offered.get(resource, 0) for resource, amount in wanted.items()):
            return name
    return None


def _resources(status: Mapping[str, object]) -> Mapping[str, str]:
    return {
        name: amount
        for name, amount in (texts(status, "allocatable") or texts(status, "capacity")).items()
        if amount.isdecimal()
    }


def unscheduled_status(pod: Mapping[str, object], nodes: int) -> Mapping[str, object]:
    """Return the status of a pod that none of `nodes` nodes has room for."""
    wanted = ", ".join(f"{amount} {name}" for name, amount in sorted(requested(pod).items())) or "nothing"
    message = f"0/{nodes} nodes are available: the pod asks for {wanted}"
    return {
        "phase": "Pending",
        "conditions": [
            _condition("PodScheduled", False, _created(pod), reason="Unschedulable", message=message)
        ],
    }


def running_status(
    pod: Mapping[str, object],
    state: ContainerState,
    *,
    address: str,
    restarts: int,
    started: datetime,
    since: datetime,
) -> Mapping[str, object]:
    """Return the status of a pod whose process first started at `started` and is in `state` since `since`."""
    container = items(mapping(pod, "spec"), "containers")[0]
    ready = state is ContainerState.READY
    if state is ContainerState.EXITED:
        doing: Mapping[str, object] = {"waiting": {"reason": "CrashLoopBackOff"}}
    else:
        doing = {"running": {"startedAt": timestamp(started)}}
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": timestamp(started),
        "conditions": [
            _condition("PodScheduled", True, timestamp(started)),
            _condition("Initialized", True, timestamp(started)),
            _condition("ContainersReady", ready, timestamp(since)),
            _condition("Ready", ready, timestamp(since)),
        ],
        "containerStatuses": [
            {
                "name": text(container, "name"),
                "image": text(container, "image"),
                "imageID": "",
                "ready": ready,
                "started": state is not ContainerState.EXITED,
                "restartCount": restarts,
                "state": doing,
            }
        ],
    }


def broken_status(pod: Mapping[str, object], message: str) -> Mapping[str, object]:
    """Return the status of a placed pod whose container can not run, for the reason in `message`."""
    since = _created(pod)
    return {
        "phase": "Pending",
        "conditions": [
            _condition("PodScheduled", True, since),
            _condition("Ready", False, since, reason="CreateContainerConfigError", message=message),
        ],
    }


def _created(pod: Mapping[str, object]) -> str:
    return text(mapping(pod, "metadata"), "creationTimestamp")


def is_ready(pod: Mapping[str, object]) -> bool:
    """Tell whether the pod's condition `Ready` holds."""
    conditions = items(mapping(pod, "status"), "conditions")
    return any(text(c, "type") == "Ready" and text(c, "status") == "True" for c in conditions)


def _condition(
    name: str, holds: bool, since: str, *, reason: str = "", message: str = ""
) -> Mapping[str, object]:
    condition = {"type": name, "status": str(holds), "lastTransitionTime": since}
    return {**condition, "reason": reason, "message": message} if reason else condition
