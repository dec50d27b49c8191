"""What an injected pod has more than its author wrote: the sidecar's container, its volumes, and variables.

In: a `Template` (settings of the injector) and the API keys that the pod's sidecar may need. Out: parts of a
pod as Kubernetes writes them. Next: `patch` puts them into a pod. The chart's MutatingAdmissionPolicy says
the same in CEL; a test compares both on a real API server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONTAINER = "modelfleet-sidecar"
TOKEN_VOLUME, JOURNAL_VOLUME, KEYS_VOLUME = "modelfleet-token", "modelfleet-journal", "modelfleet-keys"
TOKEN_FOLDER = "/var/run/secrets/modelfleet"  # noqa: S105 - a path
JOURNAL_FOLDER = "/var/lib/modelfleet"
KEYS_FOLDER = "/var/run/secrets/modelfleet-keys"
USER = 65532
GRPC_PORT, HTTP_PORT, ADMIN_PORT = 17070, 18080, 19090
PORTS = (GRPC_PORT, HTTP_PORT, ADMIN_PORT)
"""On which the sidecar listens in the pod's network: no other container can."""
APPLICATION_ENV = (
    ("OPENAI_BASE_URL", f"http://127.0.0.1:{HTTP_PORT}/v1"),
    ("OPENAI_API_KEY", "modelfleet"),  # OpenAI's clients refuse to start without one
    ("MODELFLEET_ADDRESS", f"127.0.0.1:{GRPC_PORT}"),
)
"""What the pod's other containers get, each unless they set it themselves."""
OWN_VARIABLES = frozenset(
    f"MODELFLEET_{name}"
    for name in (
        *("NAMESPACE", "POD_NAME", "POD_UID", "OPERATOR", "OPERATOR_CA", "OPERATOR_TOKEN"),
        *("ADMIN_LISTEN", "JOURNAL", "LOG_FORMAT", "KEYS"),
    )
)
"""What a sidecar gets in any case, so that an installation can not set it."""

Object = dict[str, object]


@dataclass(frozen=True, slots=True)
class Template:
    """What every sidecar of this installation has in common."""

    image: str
    pull_policy: str
    resources: Mapping[str, object]
    """As in a container: `{"requests": {...}, "limits": {...}}`."""
    operator: str
    """HOST:PORT of the capacity service."""
    authority: str
    """Certificates (PEM) that the capacity service's certificate must be signed by."""
    audience: str = "modelfleet"
    """Of the token that the sidecar shows to the capacity service."""
    token_seconds: int = 3600
    """How long each of its tokens lasts; the kubelet renews them."""
    journal_size: str = "64Mi"
    log_format: str = "json"
    env: tuple[tuple[str, str], ...] = ()
    """Further variables of the sidecar, such as HTTPS_PROXY; none of `OWN_VARIABLES`."""


@dataclass(frozen=True, slots=True, order=True)
class KeyReference:
    """One entry of a Secret in the pod's namespace."""

    secret: str
    key: str


def container(
    template: Template, keys: Sequence[KeyReference], resources: Mapping[str, object] | None = None
) -> Object:
    """Return the sidecar as a native sidecar container: first to start, last to stop, and Jobs finish.

    Until its startup probe succeeds the kubelet starts no later container, so the application finds it
    listening. `resources` replaces the template's.
    """
    env: list[Object] = [
        _from_pod("MODELFLEET_NAMESPACE", "metadata.namespace"),
        _from_pod("MODELFLEET_POD_NAME", "metadata.name"),
        _from_pod("MODELFLEET_POD_UID", "metadata.uid"),
        {"name": "MODELFLEET_OPERATOR", "value": template.operator},
        {"name": "MODELFLEET_OPERATOR_CA", "value": template.authority},
        {"name": "MODELFLEET_OPERATOR_TOKEN", "value": f"{TOKEN_FOLDER}/token"},
        {"name": "MODELFLEET_ADMIN_LISTEN", "value": f"0.0.0.0:{ADMIN_PORT}"},
        {"name": "MODELFLEET_JOURNAL", "value": JOURNAL_FOLDER},
        {"name": "MODELFLEET_LOG_FORMAT", "value": template.log_format},
    ]
    mounts: list[Object] = [
        {"name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": True},
        {"name": JOURNAL_VOLUME, "mountPath": JOURNAL_FOLDER},
    ]
    if keys:
        env.append({"name": "MODELFLEET_KEYS", "value": KEYS_FOLDER})
        mounts.append({"name": KEYS_VOLUME, "mountPath": KEYS_FOLDER, "readOnly": True})
    env += [{"name": name, "value": value} for name, value in template.env]
    return {
        "name": CONTAINER,
        "image": template.image,
        "imagePullPolicy": template.pull_policy,
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "sidecar-metrics", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": _probe("/readyz", period=1, failures=120),
        "readinessProbe": _probe("/readyz", period=5, failures=3),
        "livenessProbe": _probe("/healthz", period=10, failures=6),
        "resources": dict(template.resources if resources is None else resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def volumes(template: Template, keys: Sequence[KeyReference]) -> list[Object]:
    """Return what the sidecar mounts: its token, the journal of money, and the API keys if there are any.

    The Secrets are optional, so that a missing one stops no pod; the kubelet follows their changes.
    """
    token = {"audience": template.audience, "expirationSeconds": template.token_seconds, "path": "token"}
    found: list[Object] = [
        {"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": JOURNAL_VOLUME, "emptyDir": {"sizeLimit": template.journal_size}},
    ]
    if keys:
        found.append({"name": KEYS_VOLUME, "projected": {"sources": _secrets(keys)}})
    return found


def _secrets(keys: Sequence[KeyReference]) -> list[Object]:
    entries: dict[str, list[Object]] = {}
    for reference in sorted(set(keys)):
        path = f"{reference.secret}/{reference.key}"
        entries.setdefault(reference.secret, []).append({"key": reference.key, "path": path})
    return [
        {"secret": {"name": secret, "items": items, "optional": True}} for secret, items in entries.items()
    ]


def _from_pod(name: str, field: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}}


def _probe(path: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": ADMIN_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }
