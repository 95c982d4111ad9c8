"""The public keys of a client (RFC 7517 §5), as strictly as the token endpoint will read them."""

from typing import Any

from gateway.identity.jose import KEYS_MAX, Rejected, verifying_key


def checked_jwks(value: dict[str, Any]) -> dict[str, Any]:
    """`value`, if it is a set of usable public keys. Raises `ValueError`: here a key that cannot be used is an error,
    where a reader would pass over it."""
    keys = value.get("keys")
    if value.keys() != {"keys"} or not isinstance(keys, list) or not 0 < len(keys) <= KEYS_MAX:
        raise ValueError(f'{{"keys": […]}} with 1 to {KEYS_MAX} public keys')
    for number, key in enumerate(keys):
        try:
            verifying_key(key)
        except (Rejected, AttributeError, TypeError) as error:
            raise ValueError(f"keys[{number}]: {error}") from None
    return value
