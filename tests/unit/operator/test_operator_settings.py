"""Settings come from flags before the environment, and a wrong one says what to write."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from modelfleet_operator import settings
from modelfleet_operator.__main__ import UNUSABLE, main
from modelfleet_operator.settings import Address, ClusterKind, SettingsError, parse_settings

EMBEDDED = {"MODELFLEET_CLUSTER": "embedded", "MODELFLEET_MANIFESTS": "fleet.yaml"}


def test_without_anything_set_the_operator_runs_on_kubernetes_and_loopback() -> None:
    found = parse_settings([], {})
    assert found.cluster is ClusterKind.KUBERNETES
    assert found.capacity_listen == Address("127.0.0.1", 7443)
    assert found.http_listen == Address("127.0.0.1", 8080)
    assert (found.watch_namespace, found.namespace) == ("", "default")


def test_the_level_of_logs_is_info_or_what_is_set() -> None:
    assert parse_settings([], {}).log_level == logging.INFO
    assert parse_settings([], {"MODELFLEET_LOG_LEVEL": "error"}).log_level == logging.ERROR


def test_a_flag_wins_over_its_variable() -> None:
    environ = EMBEDDED | {"MODELFLEET_NAMESPACE": "a", "MODELFLEET_MANIFESTS": "x.yaml:y"}
    found = parse_settings(["--namespace=b", "--capacity-listen=[::1]:0"], environ)
    assert found.namespace == "b"
    assert found.manifests == (Path("x.yaml"), Path("y"))
    assert str(found.capacity_listen) == "[::1]:0"


def test_manifests_can_be_given_more_than_once_and_win_over_the_variable() -> None:
    environ = EMBEDDED | {"MODELFLEET_MANIFESTS": "z"}
    assert parse_settings([], environ).manifests == (Path("z"),)
    found = parse_settings(["--manifests", "x.yaml", "--manifests=y"], environ)
    assert found.manifests == (Path("x.yaml"), Path("y"))


@pytest.mark.parametrize(
    ("argv", "environ", "says"),
    [
        ([], {"MODELFLEET_CLUSTER": "openshift"}, "kubernetes or embedded"),
        (["--manifests=x.yaml"], {}, "embedded only"),
        (["--cluster=embedded"], {}, "name the YAML files or folders"),
        (["--clock-offset=60"], {}, "embedded only"),
        (["--clock-offset=soon"], EMBEDDED, "number of seconds"),
        (["--clock-offset=nan"], EMBEDDED, "ten years"),
        (["--http-listen=8080"], {}, "HOST:PORT"),
        (["--log-level=loud"], {}, "debug, info, warning, error"),
        (["--http-listen=127.0.0.1:99999"], {}, "HOST:PORT"),
        (["--capacity-listen=0.0.0.0:7443"], {}, "loopback"),
        (["--capacity-listen=operator.example:7443"], {}, "loopback"),
        (["--capacity-tls=/tls"], EMBEDDED, "which only --cluster=kubernetes can review"),
        (["--token-audience="], {}, "audience of the sidecars' tokens"),
        (["--capacity-service=capacity"], {}, "needs this pod's IP address"),
        (["--capacity-service=capacity", "--pod-ip=operator"], {}, "needs this pod's IP address"),
        (["--capacity-service=capacity", "--pod-ip=127.0.0.1"], {}, "at which other pods reach this one"),
        (["--capacity-service=capacity", "--pod-ip=::"], {}, "at which other pods reach this one"),
        (["--watch-nodes=no"], {}, "write true or false"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_write(
    argv: Sequence[str], environ: Mapping[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_own_network", lambda: False)
    with pytest.raises(SettingsError, match=says):
        parse_settings(argv, environ)


def test_plain_text_leases_may_leave_loopback_inside_a_network_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "_own_network", lambda: True)
    assert parse_settings(["--capacity-listen=10.1.0.1:7443"], {}).capacity_listen.host == "10.1.0.1"


def test_over_tls_the_operator_may_listen_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_own_network", lambda: False)
    found = parse_settings(["--capacity-listen=0.0.0.0:7443", "--capacity-tls=/tls"], {})
    assert found.capacity_tls == Path("/tls")
    assert found.token_audience == "modelfleet"


def test_where_the_capacity_service_leads_is_an_address() -> None:
    found = parse_settings(["--capacity-service=capacity", "--pod-ip=fd00::0:1"], {})
    assert (found.capacity_service, found.pod_ip) == ("capacity", "fd00::1")
    assert parse_settings(["--pod-ip=10.0.0.1"], {}).capacity_service == ""


def test_nodes_are_read_unless_that_is_switched_off() -> None:
    assert parse_settings([], {}).watch_nodes
    assert not parse_settings([], {"MODELFLEET_WATCH_NODES": "false"}).watch_nodes


def test_a_wrong_setting_ends_the_program_with_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--http-listen=nowhere"]) == UNUSABLE
    assert "--http-listen 'nowhere' can not be used" in capsys.readouterr().err
