"""Client addresses: parsed, compared with networks, and reduced to what one client can hold many of."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway.identity.settings import Networks

Address = IPv4Address | IPv6Address


@lru_cache(maxsize=4_096)
def parse_address(text: str) -> Address | None:
    """The address in `text`, an IPv4-mapped one (RFC 4291 §2.5.5.2) as the IPv4 address that it is; else None."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def inside(address: Address | None, networks: Networks) -> bool:
    """Whether one of `networks` holds `address`."""
    return address is not None and any(
        network.version == address.version and address in network for network in networks
    )


def attempts_origin(text: str) -> str:
    """Whom failed attempts from the address `text` are counted against: the address, of IPv6 its /64 (a single host
    owns one)."""
    address = parse_address(text)
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return text[:64] if address is None else str(address)
