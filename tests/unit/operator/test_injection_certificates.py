"""Certificates come from files that change, and a bad change does no harm."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import pytest
import trustme
from modelfleet_operator.injection.certificates import (
    Authority,
    CertificateError,
    Certificates,
    expiry,
    refresh,
)
from support.injection import write_certificate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_certificate(tmp_path, trustme.CA())
    return tmp_path


def test_files_that_did_not_change_are_not_loaded_again(folder: Path) -> None:
    certificates, authority = Certificates(folder), Authority(folder / "ca.crt")
    assert not certificates.look()
    assert not authority.look()


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CertificateError, match=rf"{name} can not be read: No such file"):
        _ = (Authority(folder / "ca.crt"), Certificates(folder))


@pytest.mark.parametrize("content", [b"", b"no PEM", b"\xff", b"-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_files_that_are_no_certificates_are_named(folder: Path, content: bytes) -> None:
    (folder / "ca.crt").write_bytes(content)
    with pytest.raises(CertificateError, match=r"ca\.crt holds no certificates"):
        Authority(folder / "ca.crt")
    (folder / "tls.crt").write_bytes(content)
    with pytest.raises(CertificateError, match=r"tls\.crt"):
        Certificates(folder)


def test_half_a_change_leaves_the_pair_in_use_and_is_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    certificates = Certificates(folder)
    in_use, expires = certificates._newest, certificates.expires
    newer = trustme.CA().issue_cert("localhost")
    (folder / "tls.key").write_bytes(newer.private_key_pem.bytes())
    assert refresh(certificates.look, "the certificate") is None
    assert refresh(certificates.look, "the certificate") is False
    assert (certificates._newest, certificates.expires) == (in_use, expires)
    assert len(caplog.records) == 1
    assert "the certificate stays as it was" in caplog.text
    (folder / "tls.crt").write_bytes(newer.cert_chain_pems[0].bytes())
    assert refresh(certificates.look, "the certificate") is True
    assert certificates._newest is not in_use


def test_a_bad_authority_leaves_the_one_in_use(folder: Path) -> None:
    authority = Authority(folder / "ca.crt")
    before = authority.text
    (folder / "ca.crt").write_text("nothing")
    assert refresh(authority.look, "the authority") is None
    assert authority.text == before
    newer = trustme.CA().cert_pem.bytes()
    (folder / "ca.crt").write_bytes(newer)
    assert refresh(authority.look, "the authority") is True
    assert authority.text == newer.decode()


@pytest.mark.parametrize(
    "ends",
    [datetime.datetime(2031, 5, 6, 7, 8, 9), datetime.datetime(2077, 1, 2, 3, 4, 5)],  # noqa: DTZ001
)
def test_the_end_of_a_certificate_is_read(ends: datetime.datetime) -> None:
    certificate = trustme.CA().issue_cert("localhost", not_after=ends)
    wanted = ends.replace(tzinfo=datetime.UTC).timestamp()
    assert expiry(certificate.cert_chain_pems[0].bytes()) == wanted


@pytest.mark.parametrize("length", [0, 10, 100, 300])
def test_a_torn_certificate_has_no_end(length: int) -> None:
    torn = trustme.CA().cert_pem.bytes()[:length]
    with pytest.raises(CertificateError):
        expiry(torn)
    with pytest.raises(CertificateError):
        expiry(torn + b"\n-----END CERTIFICATE-----\n")
