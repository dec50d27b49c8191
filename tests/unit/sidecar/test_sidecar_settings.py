"""Settings come from flags, then the environment, then defaults, and are refused with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from modelfleet_sidecar import settings
from modelfleet_sidecar.settings import Address, SettingsError, parse_address, read_settings

POD = {
    "MODELFLEET_NAMESPACE": "ml",
    "MODELFLEET_POD_NAME": "app-0",
    "MODELFLEET_POD_UID": "uid-0",
}


def test_defaults_are_the_documented_ports_on_loopback() -> None:
    settings = read_settings([], POD)
    assert str(settings.operator) == "127.0.0.1:7443"
    assert settings.grpc_listen == ("127.0.0.1", 17070)
    assert settings.http_listen == ("127.0.0.1", 18080)
    assert settings.admin_listen == ("127.0.0.1", 19090)
    assert (settings.namespace, settings.pod_name, settings.pod_uid) == ("ml", "app-0", "uid-0")


def test_a_flag_wins_over_the_environment() -> None:
    environ = POD | {"MODELFLEET_HTTP_LISTEN": "127.0.0.1:1111", "MODELFLEET_DRAIN_GRACE": "3"}
    settings = read_settings(["--http-listen", "127.0.0.1:2222"], environ)
    assert settings.http_listen.port == 2222
    assert settings.drain_grace == 3.0


def test_a_missing_pod_is_named_with_its_variable() -> None:
    with pytest.raises(SettingsError, match="MODELFLEET_POD_UID is not set"):
        read_settings([], {name: value for name, value in POD.items() if not name.endswith("UID")})


@pytest.mark.parametrize("name", ["GRPC", "HTTP"])
def test_an_api_listens_only_on_loopback(name: str) -> None:
    with pytest.raises(SettingsError, match=r"plaintext.*use 127\.0\.0\.1"):
        read_settings([], POD | {f"MODELFLEET_{name}_LISTEN": "0.0.0.0:18080"})


def test_the_admin_port_may_listen_on_the_pod_address() -> None:
    settings = read_settings([], POD | {"MODELFLEET_ADMIN_LISTEN": "10.1.2.3:19090"})
    assert settings.admin_listen == Address("10.1.2.3", 19090)


@pytest.mark.parametrize("text", ["nonsense", "host:", ":80", "host:70000", "host:-1"])
def test_an_address_without_host_or_port_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="write host:port"):
        parse_address("operator", text)


def test_an_ipv6_address_keeps_its_brackets_when_shown() -> None:
    address = parse_address("http_listen", "[::1]:18080")
    assert address == ("::1", 18080)
    assert str(address) == "[::1]:18080"
    assert address.is_loopback


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_grace_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="MODELFLEET_DRAIN_GRACE"):
        read_settings([], POD | {"MODELFLEET_DRAIN_GRACE": text})


@pytest.mark.parametrize(("name", "text"), [("log_format", "yaml"), ("log_level", "loud")])
def test_a_log_setting_that_is_none_is_refused_with_the_choices(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"MODELFLEET_{name.upper()}='{text}' must be"):
        read_settings([f"--{name.replace('_', '-')}", text], POD)
    assert read_settings(["--log-format", "JSON", "--log-level", "Debug"], POD).log_format == "json"


CERTIFICATE = trustme.CA().cert_pem.bytes().decode()
FAR = POD | {"MODELFLEET_OPERATOR": "modelfleet-capacity.modelfleet-system.svc:7443"}


def test_an_operator_elsewhere_is_reached_over_tls_with_a_token() -> None:
    trust = {"MODELFLEET_OPERATOR_CA": CERTIFICATE, "MODELFLEET_OPERATOR_TOKEN": "/token"}
    found = read_settings([], FAR | trust)
    assert found.operator_ca == CERTIFICATE
    assert found.operator_token == Path("/token")
    assert read_settings([], FAR | trust | {"MODELFLEET_OPERATOR_CA": "/ca.crt"}).operator_ca == "/ca.crt"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        (FAR, "in plaintext: set MODELFLEET_OPERATOR_CA"),
        (FAR | {"MODELFLEET_OPERATOR_TOKEN": "/token"}, "in plaintext"),
        (POD | {"MODELFLEET_OPERATOR_TOKEN": "/token"}, "set without MODELFLEET_OPERATOR_CA"),
        (FAR | {"MODELFLEET_OPERATOR_CA": "/ca.crt"}, "set without MODELFLEET_OPERATOR_TOKEN"),
        (
            FAR
            | {
                "MODELFLEET_OPERATOR_CA": CERTIFICATE.replace("M", "-"),
                "MODELFLEET_OPERATOR_TOKEN": "/token",
            },
            "MODELFLEET_OPERATOR_CA can not be used: it holds no certificate in PEM",
        ),
    ],
)
def test_trust_that_is_not_whole_is_refused(
    environ: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_own_network", lambda: False)
    with pytest.raises(SettingsError, match=says):
        read_settings([], environ)


def test_plaintext_stays_on_the_machine_or_in_a_network_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_own_network", lambda: False)
    assert read_settings([], POD).operator_ca == ""
    monkeypatch.setattr(settings, "_own_network", lambda: True)
    assert read_settings([], FAR).operator_ca == ""


def test_other_pods_are_listened_to_only_with_tls_and_a_way_to_tell_callers_apart() -> None:
    outside = {"MODELFLEET_HTTP_LISTEN": "0.0.0.0:18080"}
    keys, tls = {"MODELFLEET_AUTH_KEYS": "/keys"}, {"MODELFLEET_TLS": "/tls"}
    assert read_settings([], POD | outside | keys | tls).tls == Path("/tls")
    with pytest.raises(SettingsError, match="set MODELFLEET_TLS and MODELFLEET_AUTH_KEYS or"):
        read_settings([], POD | outside)
    with pytest.raises(SettingsError, match="nothing tells callers apart"):
        read_settings([], POD | outside | tls)
    with pytest.raises(SettingsError, match="secrets of callers would travel in plaintext"):
        read_settings([], POD | keys)


def test_a_config_file_needs_no_pod_and_takes_no_operator() -> None:
    settings = read_settings(["--config", "fleet.yaml"], {})
    assert (settings.config, settings.state) == (Path("fleet.yaml"), Path("fleet.yaml.state"))
    assert read_settings(["--config=fleet.yaml", "--state=none"], {}).state is None
    assert read_settings(["--config=fleet.yaml", "--state=kept"], {}).state == Path("kept")
    with pytest.raises(SettingsError, match="MODELFLEET_OPERATOR and MODELFLEET_CONFIG are both set"):
        read_settings(["--config=fleet.yaml"], {"MODELFLEET_OPERATOR": "operator:7443"})
