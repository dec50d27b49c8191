"""Puts the sidecar into a pod: a pod as it is to be created becomes the operations of a JSON patch.

In: a pod, a `Template`, the API keys from `followed`. Out: `Injection`: the patch, or why there is none, and
warnings for whoever creates the pod. Next: `review` answers the API server with it. A pod that would not work
with the sidecar is left as it is: one that runs without it is better than one that does not start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum

from modelfleet_operator.cluster import INJECT_LABEL
from modelfleet_operator.injection import sidecar
from modelfleet_operator.injection.sidecar import KeyReference, Object, Template

CPU_ANNOTATION = "modelfleet.io/sidecar-cpu"
"""On a pod: the sidecar's CPU request (and limit, where the installation sets one), such as `200m`."""
MEMORY_ANNOTATION = "modelfleet.io/sidecar-memory"
"""On a pod: the sidecar's memory request and limit, such as `256Mi`."""
_CPU = re.compile(r"[1-9][0-9]{0,5}m?")
_MEMORY = re.compile(r"[1-9][0-9]{0,5}(Mi|Gi|M|G)")


class Outcome(Enum):
    """What became of a pod; also the values of a metric's label."""

    INJECTED = "injected"
    PRESENT = "present"
    """It has the sidecar already."""
    UNASKED = "unasked"
    """It does not carry the label."""
    REFUSED = "refused"
    """It asks for the sidecar but would not work with it; the warning says why."""
    FAILED = "failed"
    """A fault of the injector's own; the pod was let through."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Adds `value` at the JSON pointer `path`, as RFC 6902 defines it."""

    path: str
    value: object

    def as_json(self) -> Object:
        return {"op": "add", "path": self.path, "value": self.value}


@dataclass(frozen=True, slots=True)
class Injection:
    outcome: Outcome
    operations: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()


class MalformedPod(ValueError):  # noqa: N818 - it is what was given
    """The object is no pod; the message names the field."""


def wants_sidecar(pod: Mapping[str, object]) -> bool:
    """Tell whether the pod carries the label; any other value than `true` leaves it alone."""
    return labels_of(pod).get(INJECT_LABEL) == "true"


def labels_of(pod: Mapping[str, object]) -> Mapping[str, object]:
    """Return the pod's labels. Raises `MalformedPod`."""
    return _object(_object(pod, "metadata"), "labels")


def annotations_of(pod: Mapping[str, object]) -> Mapping[str, object]:
    """Return the pod's annotations. Raises `MalformedPod`."""
    return _object(_object(pod, "metadata"), "annotations")


def inject(pod: Mapping[str, object], template: Template, keys: Sequence[KeyReference]) -> Injection:
    """Return what to change in the pod. Raises `MalformedPod` when fields have another type than a pod's."""
    if not wants_sidecar(pod):
        return Injection(Outcome.UNASKED)
    spec = _object(pod, "spec")
    first, containers = _objects(spec, "initContainers"), _objects(spec, "containers")
    if any(found.get("name") == sidecar.CONTAINER for found in first):
        return Injection(Outcome.PRESENT)
    volumes = sidecar.volumes(template, keys)
    if obstacle := _obstacle(pod, volumes):
        return Injection(Outcome.REFUSED, warnings=(f"modelfleet sidecar not injected: {obstacle}",))
    resources, warnings = _resources(pod, template)
    operations = [
        # Variables first: the sidecar, put before the other init containers, moves their indices.
        *_variables("/spec/initContainers", first),
        *_variables("/spec/containers", containers),
        *_prepended(spec, "initContainers", sidecar.container(template, keys, resources)),
        *_appended(spec, "volumes", volumes),
    ]
    warnings += _notes(spec, [*first, *containers])
    return Injection(Outcome.INJECTED, tuple(operations), tuple(warnings))


def applied(pod: Mapping[str, object], operations: Sequence[Operation]) -> Object:
    """Return the pod with the operations of `inject` applied, as the API server does it."""
    changed = deepcopy(dict(pod))
    for operation in operations:
        *parents, last = operation.path.split("/")[1:]
        target: object = changed
        for step in parents:
            target = target[int(step)] if isinstance(target, list) else _object_of(target)[step]
        if isinstance(target, list):
            target.insert(len(target) if last == "-" else int(last), deepcopy(operation.value))
        else:
            _object_of(target)[last] = deepcopy(operation.value)
    return changed


def _obstacle(pod: Mapping[str, object], volumes: Sequence[Mapping[str, object]]) -> str:
    """Say why the pod would not work with the sidecar, and what to do; nothing if it would."""
    spec = _object(pod, "spec")
    if "kubernetes.io/config.mirror" in annotations_of(pod):
        return "the pod mirrors a static pod of a node, which has no service account"
    if _object(spec, "os").get("name") == "windows":
        return "the sidecar's image is for Linux and this pod is for Windows"
    if any(found.get("name") == sidecar.CONTAINER for found in _objects(spec, "containers")):
        return f"a container has its name, {sidecar.CONTAINER}: rename it, or move it to initContainers"
    ours = {volume["name"] for volume in volumes}
    for volume in _objects(spec, "volumes"):
        if (name := str(volume.get("name"))) in ours:
            return f"a volume has the name {name}, which is the sidecar's: rename it"
    for container in (*_objects(spec, "initContainers"), *_objects(spec, "containers")):
        for port in _objects(container, "ports"):
            number = port.get("containerPort")
            if number in sidecar.PORTS and port.get("protocol", "TCP") == "TCP":
                return (
                    f"container {_short(container.get('name'))} has port {number}, where the sidecar listens "
                    f"({', '.join(map(str, sidecar.PORTS))}): use another port"
                )
    return ""


def _resources(
    pod: Mapping[str, object], template: Template
) -> tuple[Mapping[str, object] | None, list[str]]:
    """Return the sidecar's resources (None: the template's), and what is wrong with the annotations."""
    given = annotations_of(pod)
    # Where the pod has resources as a whole, what its containers ask must fit in: the sidecar takes part.
    whole = bool(_object(_object(pod, "spec"), "resources"))
    kinds = {kind: dict(_object(template.resources, kind)) for kind in ("requests", "limits")}
    if whole:
        kinds = {"requests": {}, "limits": {}}
    warnings: list[str] = []
    changed = whole
    for annotation, resource, pattern, example in (
        (CPU_ANNOTATION, "cpu", _CPU, "200m"),
        (MEMORY_ANNOTATION, "memory", _MEMORY, "256Mi"),
    ):
        if annotation not in given:
            continue
        value = given[annotation]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            warnings.append(
                f"annotation {annotation} is ignored: {_short(value)} is not a quantity such as {example}"
            )
            continue
        changed = True
        kinds["requests"][resource] = value
        if resource == "memory" or resource in kinds["limits"]:
            kinds["limits"][resource] = value
    return ({kind: values for kind, values in kinds.items() if values} if changed else None), warnings


def _notes(spec: Mapping[str, object], containers: Sequence[Mapping[str, object]]) -> list[str]:
    """Return what whoever creates the pod should know, though it works."""
    notes = []
    if spec.get("hostNetwork") is True:
        notes.append(
            "hostNetwork: everything on the node reaches the modelfleet sidecar's ports, and a node holds "
            "one such pod; set dnsPolicy to ClusterFirstWithHostNet, or it may not find the operator"
        )
    named = [_short(found.get("name")) for found in containers if _objects(found, "envFrom")]
    if named:
        notes.append(
            f"modelfleet sets {', '.join(name for name, _ in sidecar.APPLICATION_ENV)} also where envFrom of "
            f"container {named[0]} sets them; write them in env to keep your own"
        )
    return notes


def _variables(path: str, containers: Sequence[Mapping[str, object]]) -> Iterator[Operation]:
    """Put the variables first, so that a container's own may refer to them with `$(NAME)`."""
    for index, container in enumerate(containers):
        own = _objects(container, "env")
        taken = {str(variable.get("name")) for variable in own}
        ours = [
            {"name": name, "value": value} for name, value in sidecar.APPLICATION_ENV if name not in taken
        ]
        if not own:
            yield Operation(f"{path}/{index}/env", ours)
        else:
            yield from (Operation(f"{path}/{index}/env/0", variable) for variable in reversed(ours))


def _prepended(spec: Mapping[str, object], name: str, value: Object) -> Iterator[Operation]:
    yield Operation(f"/spec/{name}/0", value) if spec.get(name) else Operation(f"/spec/{name}", [value])


def _appended(spec: Mapping[str, object], name: str, values: Sequence[Object]) -> Iterator[Operation]:
    if spec.get(name):
        yield from (Operation(f"/spec/{name}/-", value) for value in values)
    else:
        yield Operation(f"/spec/{name}", list(values))


def _object(source: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = source.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MalformedPod(f"{name} is not an object")
    return value


def _objects(source: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    value = source.get(name)
    if value is None:
        return ()
    # Not Mapping: its check of types costs as much as all the rest, and parsed JSON has nothing else.
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise MalformedPod(f"{name} is not a list of objects")
    return value


def _object_of(value: object) -> Object:
    if not isinstance(value, dict):
        raise TypeError(f"a patch leads into {type(value).__name__}")
    return value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
