"""Which proxy the environment means for which server."""

from __future__ import annotations

import pytest
from modelfleet_sidecar.dialing import Origin, Proxies

BOTH = {"HTTPS_PROXY": "http://secure:3128", "HTTP_PROXY": "http://plain:3129"}


def through(
    environ: dict[str, str], host: str, *, port: int = 443, secure: bool = True, outside: bool = True
) -> str:
    proxy = Proxies.of(environ).through(Origin(secure, host, port, outside))
    return "" if proxy is None else f"{proxy.host}:{proxy.port}"


def test_each_scheme_has_its_proxy_and_pods_have_none() -> None:
    assert through(BOTH, "api.example.com") == "secure:3128"
    assert through(BOTH, "api.example.com", secure=False) == "plain:3129"
    assert through(BOTH, "10.0.0.7", outside=False) == ""
    assert through({}, "api.example.com") == ""
    assert through({"ALL_PROXY": "proxy:1"}, "api.example.com") == "proxy:1"
    assert (
        through({"https_proxy": "http://small:1", "HTTPS_PROXY": "http://large:1"}, "a.example") == "small:1"
    )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_always_asked_directly(host: str) -> None:
    assert through(BOTH, host) == ""


@pytest.mark.parametrize(
    ("listed", "host", "direct"),
    [
        ("*", "api.example.com", True),
        ("example.com", "example.com", True),
        ("example.com", "api.example.com", True),
        (".example.com", "api.example.com", True),
        ("*.example.com", "api.example.com", True),
        ("EXAMPLE.com", "API.example.COM", True),
        ("example.com", "badexample.com", False),
        ("example.com:443", "example.com", True),
        ("example.com:8443", "example.com", False),
        ("other, 10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:80", "10.1.2.3", False),
        ("fd00::/8", "fd00::7", True),
        ("[fd00::7]", "fd00::7", True),
        ("[fd00::7]:443", "fd00::7", True),
        ("[fd00::7]:80", "fd00::7", False),
        ("", "api.example.com", False),
        (",,", "api.example.com", False),
    ],
)
def test_no_proxy_lists_names_addresses_and_ranges(listed: str, host: str, direct: bool) -> None:
    assert (through(BOTH | {"NO_PROXY": listed}, host) == "") is direct


@pytest.mark.parametrize(
    "text", ["https://proxy:3128", "socks5://proxy:1080", "http://:80", "http://proxy:port"]
)
def test_what_is_no_proxy_of_ours_is_refused_by_name_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY is no") as refused:
        Proxies.of({"HTTPS_PROXY": text})
    assert text.partition("//")[2] not in str(refused.value)
