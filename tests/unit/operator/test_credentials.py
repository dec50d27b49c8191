"""Both ways to reach the API server show the token as it is: kopf's watches and our own requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trustme
from kubernetes.aio.config import incluster_config
from modelfleet_operator.cluster.credentials import connection, credentials


async def test_in_a_pod_the_mounted_token_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("ey.J")
    authority.write_bytes(trustme.CA().cert_pem.bytes())
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = await connection()
    assert (found.server, found.token) == ("https://10.96.0.1:443", "ey.J")
    header = await (await credentials()).get_api_key_with_prefix("BearerToken", alias="authorization")
    assert header is not None
    assert header.lower() == "bearer ey.j"


async def test_a_kubeconfigs_token_is_shown(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}
    user = {"name": "u", "user": {"token": "ey.J"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    content = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
    kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **content}))
    assert (await connection(str(kubeconfig))).token == "ey.J"


async def test_without_a_token_none_is_shown(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    content = {
        "clusters": [cluster],
        "users": [{"name": "u", "user": {}}],
        "contexts": [context],
        "current-context": "x",
    }
    kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **content}))
    assert (await connection(str(kubeconfig))).token is None
