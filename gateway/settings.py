"""Settings of one process, read once from the environment into an immutable value."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from gateway.identity.settings import IdentitySettings, Networks
from gateway.upstreams.client import Timeouts


class SettingsError(Exception):
    """A setting is missing or wrong; the text says which and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`database_url` is a PostgreSQL DSN, `valkey_url` a Redis-protocol URL (`unix://…` or `redis://…`). Engines are
    asked for their records with the first line of `witness_token_file`, where it exists. Webhooks go to public
    addresses, and to others only inside `webhook_networks`."""

    data_dir: Path
    database_url: str
    valkey_url: str
    timeouts: Timeouts
    drain_s: float
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    witness_token_file: Path | None = None
    webhook_networks: Networks = ()

    @property
    def spool_dir(self) -> Path:
        """Where settlements wait while PostgreSQL is away (`billing.spool`)."""
        return self.data_dir / "spool"


def data_dir_of(option: str | None, environment: Mapping[str, str] | None = None) -> Path:
    """`--data-dir`, else SEKISHO_DATA_DIR, else `./.sekisho`."""
    given = option or (os.environ if environment is None else environment).get("SEKISHO_DATA_DIR") or ".sekisho"
    return Path(given).resolve()


def load(data_dir: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment, stores else as `sekisho up` noted them in the data folder while it runs.

    Raises `SettingsError`.
    """
    environment = os.environ if environment is None else environment
    noted = _noted_stores(data_dir)
    values = {}
    for name in ("SEKISHO_DATABASE_URL", "SEKISHO_VALKEY_URL"):
        values[name] = environment.get(name) or noted.get(name, "")
        if not values[name]:
            raise SettingsError(f"{name} is not set: name the store, or run `sekisho up`, which starts both stores")
    defaults = Timeouts()
    return Settings(
        data_dir=data_dir,
        database_url=values["SEKISHO_DATABASE_URL"],
        valkey_url=values["SEKISHO_VALKEY_URL"],
        timeouts=Timeouts(
            connect_s=_seconds(environment, "SEKISHO_UPSTREAM_CONNECT_S", defaults.connect_s),
            first_byte_s=_seconds(environment, "SEKISHO_UPSTREAM_FIRST_BYTE_S", defaults.first_byte_s),
            idle_s=_seconds(environment, "SEKISHO_UPSTREAM_IDLE_S", defaults.idle_s),
            total_s=_seconds(environment, "SEKISHO_UPSTREAM_TOTAL_S", defaults.total_s),
        ),
        drain_s=_seconds(environment, "SEKISHO_DRAIN_S", 15.0),
        identity=_identity(environment),
        witness_token_file=witness_token_file_of(data_dir, environment),
        webhook_networks=_networks(environment, "SEKISHO_WEBHOOK_NETWORKS"),
    )


def witness_token_file_of(data_dir: Path, environment: Mapping[str, str]) -> Path:
    """Where the token lies that engines ask for before they show their records; it need not exist."""
    given = environment.get("SEKISHO_WITNESS_TOKEN_FILE")
    return Path(given) if given else data_dir / "secrets" / "witness.token"


def _noted_stores(data_dir: Path) -> dict[str, str]:
    try:
        noted: dict[str, str] = json.loads((data_dir / "stores.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return noted


def _identity(environment: Mapping[str, str]) -> IdentitySettings:
    return IdentitySettings(
        public_urls=tuple(_origin(url) for url in _list(environment, "SEKISHO_PUBLIC_URL")),
        trusted_proxies=_networks(environment, "SEKISHO_TRUSTED_PROXIES"),
        issuer_networks=_networks(environment, "SEKISHO_ISSUER_NETWORKS"),
        failures_per_minute=_count(environment, "SEKISHO_AUTH_FAILURES_PER_MINUTE", 60),
    )


def _list(environment: Mapping[str, str], name: str) -> list[str]:
    return [entry for part in environment.get(name, "").split(",") if (entry := part.strip())]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or url != f"{parts.scheme}://{parts.netloc}":
        raise SettingsError(f"SEKISHO_PUBLIC_URL={url!r} is not an origin such as https://gateway.example.jp")
    return url.lower()


def _networks(environment: Mapping[str, str], name: str) -> Networks:
    try:
        return tuple(ip_network(entry) for entry in _list(environment, name))
    except ValueError as error:
        raise SettingsError(f"{name}: {error}: name networks such as 10.0.0.0/8") from None


def _count(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "") or str(default)
    if not text.isdecimal() or not 0 < int(text) <= 1_000_000:
        raise SettingsError(f"{name}={text!r} is not a whole number between 1 and 1000000")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 86_400:
        raise SettingsError(f"{name}={text!r} is not a number of seconds between 0 and 86400")
    return value
