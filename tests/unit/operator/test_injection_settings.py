"""Settings of the injector, and the manifests that it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from modelfleet_operator.injection import sidecar
from modelfleet_operator.injection.__main__ import main
from modelfleet_operator.injection.patch import MalformedPod, applied, inject
from modelfleet_operator.injection.printing import EXAMPLE, with_sidecar
from modelfleet_operator.injection.settings import PrintSettings, ServeSettings, parse_settings
from modelfleet_operator.injection.sidecar import KeyReference
from modelfleet_operator.settings import SettingsError
from support.injection import TEMPLATE, pod

IMAGE = {"MODELFLEET_SIDECAR_IMAGE": "modelfleet/sidecar:1"}


def _serve(*argv: str, **environ: str) -> ServeSettings:
    settings = parse_settings(argv, {**IMAGE, **environ})
    assert isinstance(settings, ServeSettings)
    return settings


def test_the_environment_of_the_chart_is_understood() -> None:
    settings = _serve(
        MODELFLEET_LISTEN="0.0.0.0:8443",
        MODELFLEET_TLS="/certificates",
        MODELFLEET_SIDECAR_RESOURCES='{"limits": {"memory": "192Mi", "cpu": 1}}',
        MODELFLEET_SIDECAR_ENV='{"NO_PROXY": "10.0.0.0/8", "HTTPS_PROXY": "http://proxy:3128"}',
        MODELFLEET_WATCH_NAMESPACE="ml",
        MODELFLEET_LOG_FORMAT="text",
    )
    assert (str(settings.listen), settings.tls) == ("0.0.0.0:8443", Path("/certificates"))
    assert settings.template.resources == {"limits": {"memory": "192Mi", "cpu": 1}}
    assert (settings.watch_namespace, settings.template.log_format) == ("ml", "text")
    assert settings.drain_seconds == 8
    env = sidecar.container(settings.template, ())["env"]
    assert isinstance(env, list)
    assert env[-2:] == [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "NO_PROXY", "value": "10.0.0.0/8"},
    ]


def test_what_every_sidecar_gets_can_not_be_set() -> None:
    env = sidecar.container(TEMPLATE, [KeyReference("frontier", "token")])["env"]
    assert isinstance(env, list)
    assert {variable["name"] for variable in env} == sidecar.OWN_VARIABLES


def test_flags_win_over_the_environment() -> None:
    assert _serve("--sidecar-image=b").template.image == "b"


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("--sidecar-image=", "name the image"),
        ("--sidecar-pull-policy=always", "one of Always, IfNotPresent, Never"),
        ("--log-format=xml", "one of json, text"),
        ("--token-seconds=599", "from 600 to 86400"),
        ("--token-seconds=nan", "from 600 to 86400"),
        ("--drain-seconds=x", "from 0 to 300"),
        ("--token-audience=", "the audience"),
        ("--journal-size=64MB", "a quantity such as 64Mi"),
        ("--sidecar-resources=[]", "write JSON"),
        ("--sidecar-resources={", "write JSON"),
        ('--sidecar-resources={"claims": {}}', "write JSON"),
        ('--sidecar-resources={"limits": {"memory": "lots"}}', "write JSON"),
        ('--sidecar-resources={"limits": 3}', "write JSON"),
        ("--sidecar-env={", "write JSON"),
        ("--sidecar-env=[]", "write JSON"),
        ('--sidecar-env={"A": 1}', "write JSON"),
        ('--sidecar-env={"A B": ""}', "write JSON"),
        ('--sidecar-env={"MODELFLEET_JOURNAL": ""}', "leave out MODELFLEET_JOURNAL"),
        ("--operator=here", "HOST:PORT"),
        ("--listen=8443", "HOST:PORT"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named_with_a_remedy(flag: str, remedy: str) -> None:
    with pytest.raises(SettingsError, match=f"{flag.split('=')[0]} .* can not be used: .*{remedy}"):
        parse_settings([flag], IMAGE)


@pytest.mark.parametrize("keys", ["a", "a/", "/b", "a/b/c"])
def test_keys_are_secrets_and_their_keys(keys: str) -> None:
    with pytest.raises(SettingsError, match="SECRET/KEY"):
        parse_settings(["print", f"--keys={keys}"], IMAGE)
    settings = parse_settings(["print", "--keys=a/b, c/d"], IMAGE)
    assert isinstance(settings, PrintSettings)
    assert settings.keys == (KeyReference("a", "b"), KeyReference("c", "d"))


def _printed(given: str, *keys: KeyReference) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(with_sidecar(given, TEMPLATE, keys)[0]))


def test_what_is_printed_is_what_the_webhook_injects() -> None:
    given = pod(initContainers=[{"name": "a", "image": "a"}])
    del given["metadata"]["labels"]["modelfleet.io/inject"]
    (printed,) = _printed(yaml.safe_dump(given), KeyReference("frontier", "token"))
    labelled = pod(initContainers=[{"name": "a", "image": "a"}])
    keys = [KeyReference("frontier", "token")]
    assert printed == applied(labelled, inject(labelled, TEMPLATE, keys).operations)


POD_SPEC = {"containers": [{"name": "app", "image": "a"}]}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Deployment", {"replicas": 2, "template": {"metadata": {"labels": {"a": "b"}}, "spec": POD_SPEC}}),
        ("StatefulSet", {"template": {"spec": POD_SPEC}}),
        ("DaemonSet", {"template": {"metadata": None, "spec": POD_SPEC}}),
        ("Job", {"template": {"spec": {**POD_SPEC, "restartPolicy": "Never"}}}),
        ("CronJob", {"jobTemplate": {"spec": {"template": {"spec": POD_SPEC}}}}),
    ],
)
def test_everything_that_makes_pods_gets_the_sidecar(kind: str, spec: dict[str, Any]) -> None:
    (printed,) = _printed(yaml.safe_dump({"kind": kind, "metadata": {"name": "x"}, "spec": spec}))
    assert {**printed, "spec": None} == {"kind": kind, "metadata": {"name": "x"}, "spec": None}
    template = printed["spec"].get("template") or printed["spec"]["jobTemplate"]["spec"]["template"]
    assert template["metadata"]["labels"]["modelfleet.io/inject"] == "true"
    assert template["spec"]["initContainers"][0]["name"] == "modelfleet-sidecar"
    assert printed["spec"].get("replicas") == spec.get("replicas")


def test_other_objects_pass_and_lists_are_taken_apart() -> None:
    service = {"kind": "Service", "metadata": {"name": "s"}}
    given = yaml.safe_dump_all([service, None, {"kind": "List", "items": [service, pod()]}])
    printed = _printed(given)
    assert printed[:2] == [service, service]
    assert printed[2]["spec"]["initContainers"]


def test_printing_twice_changes_nothing_more() -> None:
    once, _ = with_sidecar(EXAMPLE, TEMPLATE, ())
    assert with_sidecar(once, TEMPLATE, ()) == (once, ())


def test_a_pod_that_would_break_is_printed_as_it_is_with_the_reason() -> None:
    given = pod(os={"name": "windows"})
    text, (warning,) = with_sidecar(yaml.safe_dump(given), TEMPLATE, ())
    assert yaml.safe_load(text) == given
    assert "this pod is for Windows" in warning


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("a: [", "no YAML"),
        ("3", "a document is no object"),
        ("{kind: Deployment}", "Deployment has no spec.template"),
        ("{kind: Pod, metadata: 3}", "metadata"),
        ("{kind: Pod, spec: 3}", "spec is not an object"),
        ("[" * 2_000, "no YAML"),
    ],
)
def test_manifests_that_can_not_be_read_are_refused_in_words(given: str, why: str) -> None:
    with pytest.raises(MalformedPod, match=why):
        with_sidecar(given, TEMPLATE, ())


def test_the_command_prints_and_tells_what_it_can_not_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_SIDECAR_IMAGE", "modelfleet/sidecar:1")
    authority = tmp_path / "ca.crt"
    authority.write_bytes(trustme.CA().cert_pem.bytes())
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(yaml.safe_dump(pod(hostNetwork=True)))
    assert main(["print", f"--operator-ca={authority}", f"--pod={manifest}"]) == 0
    told = capsys.readouterr()
    sidecar = yaml.safe_load(told.out)["spec"]["initContainers"][0]
    env = {variable["name"]: variable.get("value") for variable in sidecar["env"]}
    assert env["MODELFLEET_OPERATOR_CA"] == authority.read_text()
    assert "hostNetwork" in told.err
    assert main(["print", f"--operator-ca={authority}", f"--pod={tmp_path / 'none'}"]) == 2
    assert main(["print", f"--operator-ca={tmp_path / 'none'}"]) == 2
    assert main([f"--tls={tmp_path}", f"--operator-ca={authority}"]) == 2
    assert "mount a Secret there" in capsys.readouterr().err


def test_the_program_does_without_solvers_and_grpc() -> None:
    """They would take most of its memory; a fresh interpreter tells what is really imported."""
    modules = "modelfleet_operator.injection.app, modelfleet_operator.injection.__main__"
    heavy = {"ortools", "numpy", "grpc", "google.protobuf", "scipy"}
    script = f"import sys, {modules}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
