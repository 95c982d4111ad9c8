"""Refusals of credentials, each with the challenge that its status 401 needs (RFC 9110 §11.6.1)."""

from gateway.faults import Fault
from gateway.identity.jose import ALGORITHMS

_ALGS = " ".join(ALGORITHMS)
# RFC 6750 §3.1: without credentials in the request the challenge names no error.
_PLAIN = f'Bearer realm="sekisho", DPoP algs="{_ALGS}"'
_BEARER = 'Bearer realm="sekisho", error="invalid_token"'
_BOUND_TOKEN = f'DPoP realm="sekisho", error="invalid_token", algs="{_ALGS}"'
_PROOF = f'DPoP realm="sekisho", error="invalid_dpop_proof", algs="{_ALGS}"'
_CHALLENGES = {
    "missing_api_key": _PLAIN,
    "token_not_bound": _BOUND_TOKEN,
    "dpop_proof_invalid": _PROOF,
    "dpop_proof_replayed": _PROOF,
}


def refusal(code: str, internal: str = "") -> Fault:
    """A 401 of the catalogue; `internal` is for the operator's log only."""
    return Fault(code, internal=internal, headers={"www-authenticate": _CHALLENGES.get(code, _BEARER)})


def too_many(wait_s: int) -> Fault:
    """The answer to a failed attempt from an address that has failed too often; `wait_s` seconds until it may again."""
    return Fault("too_many_failed_attempts", retry_after_s=wait_s)
