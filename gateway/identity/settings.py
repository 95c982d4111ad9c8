"""Settings of identity, as the process's settings carry them."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """`public_urls` are the origins (`https://host[:port]`) at which clients address this gateway; the first is the
    issuer of its tokens. Headers about the client count only from `trusted_proxies`. OpenID issuers at addresses that
    are not public are asked only inside `issuer_networks`. `failures_per_minute` is per client address (an IPv6 /64).
    """

    public_urls: tuple[str, ...] = ()
    trusted_proxies: Networks = ()
    issuer_networks: Networks = ()
    failures_per_minute: int = 60


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of the server's certificate chain and key, and of the authorities whose client certificates are taken;
    without those no client is asked for one."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def local_urls(host: str, port: int, *, tls: bool) -> tuple[str, ...]:
    """The origins of a gateway that nobody gave a public URL: its own, where it listens on loopback, else none."""
    scheme = "https" if tls else "http"
    if host not in ("127.0.0.1", "::1", "localhost"):
        return ()
    names = dict.fromkeys([f"[{host}]" if ":" in host else host, "localhost"])
    return tuple(f"{scheme}://{name}:{port}" for name in names)
