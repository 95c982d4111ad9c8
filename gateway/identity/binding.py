"""Whether a bound token comes from whom it is bound to: holder of a key (RFC 9449) or of a certificate (RFC 8705)."""

import base64
import hashlib
import hmac
from collections.abc import Collection

from gateway.identity.credentials import Binding, Presented
from gateway.identity.dpop import REPLAY_S, origin_of, read_proof
from gateway.identity.jose import Rejected
from gateway.identity.refusals import refusal
from gateway.identity.shared import SingleUse
from gateway.identity.tokens import Token

_SECOND_US = 1_000_000


def certificate_thumbprint(der: bytes) -> str:
    """`x5t#S256` of a certificate (RFC 8705 §3.1)."""
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


class Bindings:
    """Checks proofs for the origins at which clients address this gateway: a proof made for another server is refused
    however the request names the host."""

    def __init__(self, origins: Collection[str], single_use: SingleUse) -> None:
        self._origins = frozenset(origin for url in origins if (origin := origin_of(url)) is not None)
        self._single_use = single_use

    async def check(
        self, scheme: str, text: str, token: Token, binding: Binding, presented: Presented, now: int
    ) -> None:
        """Raises `Fault` unless `token` (its text is `text`) is bound as `binding` wants, and comes from its holder."""
        self._check_certificate(token, binding, presented)
        if token.jkt is None:
            if binding == "dpop":
                raise refusal("token_not_bound")
            if scheme == "dpop":
                raise refusal("invalid_token", "an unbound token under the scheme DPoP (RFC 9449 §7.1)")
            return
        if scheme != "dpop":
            raise refusal("token_not_bound", "a bound token as Bearer (RFC 9449 §7.2)")
        try:
            jkt = await self.prove(presented, text, now, expected=token.jkt)
        except Rejected as rejected:
            raise refusal("dpop_proof_invalid", str(rejected)) from None
        if jkt is None:
            raise refusal("dpop_proof_replayed")

    def _check_certificate(self, token: Token, binding: Binding, presented: Presented) -> None:
        if token.x5t is None:
            if binding == "mtls":
                raise refusal("certificate_mismatch", "the token is not bound")
            return
        shown = "" if presented.certificate is None else certificate_thumbprint(presented.certificate)
        if not hmac.compare_digest(shown.encode(), token.x5t.encode("utf-8", "replace")):
            raise refusal("certificate_mismatch")

    async def prove(self, presented: Presented, text: str | None, now: int, expected: str | None = None) -> str | None:
        """The thumbprint of the key that signed the request's proof, None when the proof was used before.

        Raises `Rejected`, or `Fault("store_unavailable")`.
        """
        if not presented.dpop:
            raise Rejected("no proof")
        if origin_of(presented.url) not in self._origins:
            raise Rejected("the request addresses a host that is not this gateway's")
        jkt, jti = read_proof(presented.dpop, presented.method, presented.url, now / _SECOND_US, text)
        if expected is not None and jkt != expected:
            raise Rejected("the proof is of another key")
        return jkt if await self._single_use.first("dpop", jkt, jti, REPLAY_S) else None
