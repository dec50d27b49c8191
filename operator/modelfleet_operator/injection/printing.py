"""Writes manifests with the sidecar, for people who want no webhook.

In: YAML of pods and of what makes pods, or nothing for an example; the `Template`. Out: YAML with the same
sidecar that the webhook injects. Next: `kubectl apply`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import yaml

from modelfleet_operator.cluster import INJECT_LABEL
from modelfleet_operator.injection.patch import Injection, MalformedPod, applied, inject
from modelfleet_operator.injection.sidecar import KeyReference, Object, Template

_TEMPLATE_AT = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
EXAMPLE = """\
apiVersion: v1
kind: Pod
metadata:
  name: assistant
  labels: {app: assistant}
spec:
  containers:
    - name: app
      image: registry.example.com/assistant:1.0
"""


class _Writer(yaml.SafeDumper):
    """Lists within keys indented, and text of several lines as it is."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Writer.add_representer(str, _text)


def with_sidecar(given: str, template: Template, keys: Sequence[KeyReference]) -> tuple[str, tuple[str, ...]]:
    """Return the manifests (YAML) with the sidecar in every pod, and warnings.

    The pods get the label too: by it the operator finds them. Raises `MalformedPod` with what is wrong.
    """
    try:
        documents = [document for document in yaml.safe_load_all(given) if document is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise MalformedPod(f"the manifests are no YAML: {error}") from error
    warnings: list[str] = []
    changed = []
    for document in _single(documents):
        result, injection = _changed(document, template, keys)
        changed.append(result)
        if injection is not None:
            warnings += injection.warnings
    text = yaml.dump_all(changed, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=4096)
    return text, tuple(warnings)


def _single(documents: Sequence[object]) -> Iterator[Mapping[str, object]]:
    """Return each manifest, those of lists one by one."""
    for document in documents:
        if not isinstance(document, Mapping):
            raise MalformedPod("a document is no object")
        entries = document.get("items")
        if str(document.get("kind", "")).endswith("List") and isinstance(entries, list):
            yield from _single(entries)
        else:
            yield document


def _changed(
    document: Mapping[str, object], template: Template, keys: Sequence[KeyReference]
) -> tuple[Mapping[str, object], Injection | None]:
    path = _TEMPLATE_AT.get(str(document.get("kind")))
    if path is None:
        return document, None
    result = deepcopy(dict(document))
    parent, pod = result, result
    for step in path:
        child = pod.get(step)
        if not isinstance(child, dict):
            raise MalformedPod(f"{document.get('kind')} has no {'.'.join(path)}")
        parent, pod = pod, child
    _label(pod)
    injection = inject(pod, template, keys)
    injected = applied(pod, injection.operations)
    if not path:
        return injected, injection
    parent[path[-1]] = injected
    return result, injection


def _label(pod: Object) -> None:
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {} if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(labels, dict):
        raise MalformedPod("metadata and its labels are no objects")
    pod["metadata"] = {**metadata, "labels": {**labels, INJECT_LABEL: "true"}}
