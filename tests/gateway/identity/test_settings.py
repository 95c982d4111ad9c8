"""Settings of identity from the environment, and secrets that several processes make at once."""

from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.identity.secrets import create_private
from gateway.identity.service import Identifier
from gateway.identity.settings import IdentitySettings, local_urls
from gateway.identity.token_keys import TokenKeys, rotate
from gateway.settings import SettingsError, load

STORES = {"SEKISHO_DATABASE_URL": "postgresql://", "SEKISHO_VALKEY_URL": "redis://"}


def test_settings_are_read(tmp_path: Path) -> None:
    assert load(tmp_path, STORES).identity == IdentitySettings((), (), (), 60)
    environment = STORES | {
        "SEKISHO_PUBLIC_URL": "https://Gateway.example.jp, https://10.0.0.1:8443",
        "SEKISHO_TRUSTED_PROXIES": "10.0.0.0/8,fd00::/8",
        "SEKISHO_ISSUER_NETWORKS": "192.168.1.1",
        "SEKISHO_AUTH_FAILURES_PER_MINUTE": "5",
    }
    assert load(tmp_path, environment).identity == IdentitySettings(
        ("https://gateway.example.jp", "https://10.0.0.1:8443"),
        (ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        (ip_network("192.168.1.1/32"),),
        5,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("SEKISHO_PUBLIC_URL", "gateway.example.jp"), ("SEKISHO_PUBLIC_URL", "https://gateway.example.jp/v1"),
     ("SEKISHO_PUBLIC_URL", "ftp://x"), ("SEKISHO_PUBLIC_URL", "https://"), ("SEKISHO_TRUSTED_PROXIES", "10.0.0.1/8"),
     ("SEKISHO_TRUSTED_PROXIES", "proxy"), ("SEKISHO_AUTH_FAILURES_PER_MINUTE", "0"),
     ("SEKISHO_AUTH_FAILURES_PER_MINUTE", "-1"), ("SEKISHO_AUTH_FAILURES_PER_MINUTE", "many")],
)  # fmt: skip
def test_wrong_setting_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load(tmp_path, STORES | {name: value})


@pytest.mark.parametrize(
    ("host", "urls"),
    [("127.0.0.1", ("https://127.0.0.1:8080", "https://localhost:8080")), ("localhost", ("https://localhost:8080",)),
     ("::1", ("https://[::1]:8080", "https://localhost:8080")), ("0.0.0.0", ()), ("gateway.example.jp", ())],
)  # fmt: skip
def test_only_a_gateway_on_loopback_names_its_own_url(host: str, urls: tuple[str, ...]) -> None:
    assert local_urls(host, 8080, tls=True) == urls


def test_processes_that_begin_at_once_share_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "secret.json"

    def begin(number: int) -> str:
        create_private(path, str(number))
        return path.read_text()

    with ThreadPoolExecutor(8) as pool:
        read = set(pool.map(begin, range(32)))
    assert len(read) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.json"]


def test_rotation_keeps_the_key_before_and_drops_older_ones(tmp_path: Path) -> None:
    keys = TokenKeys(tmp_path)
    first = keys.ring(0).current.thumbprint()
    second, third = rotate(tmp_path), rotate(tmp_path)
    ring = keys.ring(10**9)
    assert ring.current.thumbprint() == third
    assert list(ring.public) == [third, second]
    assert keys.find(first, 10**9) is None
    path = tmp_path / "secrets" / "token_keys.json"
    assert path.stat().st_mode & 0o777 == 0o600


def test_keys_serve_on_while_their_file_is_unreadable(tmp_path: Path) -> None:
    keys = TokenKeys(tmp_path)
    before = keys.ring(0).current
    path = tmp_path / "secrets" / "token_keys.json"
    path.write_text("{")
    assert keys.ring(10**9).current is before
    path.unlink()
    assert keys.ring(2 * 10**9).current is before


def test_secrets_are_readable_by_their_owner_only(identifier: Identifier, tmp_path: Path) -> None:
    for name in ("pepper.json", "token_keys.json"):
        assert (tmp_path / "secrets" / name).stat().st_mode & 0o777 == 0o600
