"""Licence documents and the keys of their parties, for tests."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.licensing.document import LicenceDocument, StoredLicence
from gateway.licensing.envelope import canonical, open_envelope, parse_document, seal
from gateway.licensing.keys import SigningKey
from gateway.licensing.trust import Role, Trust, TrustKey

ISSUER, TENANT, SUBCONTRACTOR = "sekisho", "acme", "subby"
# 2026-11-24T08:00:00Z
NOW = 1_795_507_200_000_000
DAY = 86_400_000_000


def a_document(**changes: Any) -> dict[str, Any]:
    """A licence of `TENANT` that uses every field and may be re-contracted twice; fields by dotted path."""
    document: dict[str, Any] = {
        "v": 1,
        "licence_id": "lic-acme",
        "version": 1,
        "supersedes": None,
        "issuer": ISSUER,
        "licensee": {
            "tenant": TENANT, "legal_name": "Acme 株式会社", "hojin_bangou": "8700110005901", "class": "investor",
            "role": "downstream_provider", "country": "JP",
        },
        "validity": {
            "not_before": "2026-04-01T00:00:00+09:00", "not_after": "2027-04-01T00:00:00+09:00", "grace_days": 14,
            "notice_days": 30,
        },
        "contract_ref": {"doc_sha256": "ab" * 32, "signed_at": "2026-03-20T10:00:00+09:00"},
        "grants": [a_grant()],
        "prohibitions": [
            {"id": "p1", "match": {"models": ["base-*@<2"], "purposes": ["legal", "medical"]}, "reason": "not tested"},
        ],
        "duties": ["mark outputs", {"kind": "report", "every_days": 30}],
        "delegation": {"allowed": True, "max_depth": 2, "to": [SUBCONTRACTOR, "other"]},
        "ip": {
            "contributions": ["c1", "c2"],
            "exclusive": [
                {"model": "acme-7b", "until": "2026-12-01T00:00:00Z", "scope": "vehicles", "basis": "c1"},
            ],
        },
        "personal_data": {"handling_mode": "entrusted", "processing_countries": ["JP", "DE"], "training_use": False},
    }  # fmt: skip
    return changed(document, changes)


def a_grant(**changes: Any) -> dict[str, Any]:
    """A grant that bounds everything."""
    grant: dict[str, Any] = {
        "id": "g1",
        "models": ["base-*@>=1,<3", "acme-7b"],
        "actions": ["chat", "completion", "embed"],
        "purposes": ["development", "general", "production"],
        "data_classes": ["public", "restricted"],
        "regions": ["jp-east", "jp-west"],
        "tiers": ["edge", "heavy"],
        "adapters": ["a1", "a2"],
        "redistribution": True,
        "annex3_high_risk": True,
        "quota": {
            "rpm": 100, "tpm": 1000, "concurrency": 10, "tokens_month": 10**6, "yen_month_hard": 500,
            "yen_month_soft": 400,
        },
        "priority": {"class": "investor", "weight": 10},
        "rate_card": "std",
        "retention_days": 30,
        "zero_retention": False,
    }  # fmt: skip
    return changed(grant, changes)


def a_child(**changes: Any) -> dict[str, Any]:
    """A licence cut from `a_document()` that is as wide as it may be."""
    child = a_document(
        licence_id="lic-subby", issuer=TENANT, parent={"licence_id": "lic-acme", "version": 1},
        licensee={"tenant": SUBCONTRACTOR, "legal_name": "Subby 株式会社", "class": "investor",
                  "role": "downstream_provider", "country": "JP"},
    )  # fmt: skip
    child["delegation"] = {"allowed": True, "max_depth": 1, "to": ["other"]}
    return changed(child, changes)


def changed(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with values set by paths like `grants.0.quota.rpm`; `...` removes the field."""
    result = copy.deepcopy(tree)
    for path, value in changes.items():
        *way, last = path.split(".")
        node: Any = result
        for step in way:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        if value is ...:
            del node[last]
        else:
            node[int(last) if isinstance(node, list) else last] = copy.deepcopy(value)
    return result


def parsed(document: Mapping[str, Any]) -> LicenceDocument:
    """The document as values."""
    return parse_document(canonical(dict(document)))


@dataclass(frozen=True)
class Parties:
    """One key for each party, and the trust in them."""

    keys: Mapping[tuple[Role, str], SigningKey]
    trust: Trust

    def sealed_text(self, document: Mapping[str, Any]) -> str:
        """The envelope, signed by both parties of the document."""
        role: Role = "licensee" if document.get("parent") else "issuer"
        tenant = document["licensee"]["tenant"]
        return seal(document, [self.keys[role, document["issuer"]], self.keys["licensee", tenant]])

    def stored(self, document: Mapping[str, Any], revoked_at: int | None = None) -> StoredLicence:
        """The licence as the book has it."""
        sealed = open_envelope(self.sealed_text(document))
        return StoredLicence(sealed.document, sealed.digest, revoked_at)

    def with_key(self, role: Role, party: str, **changes: Any) -> "Parties":
        """The same parties, where the trust in one key is changed."""
        key_id = self.keys[role, party].key_id
        key = replace(self.trust.keys[key_id], **changes)
        return Parties(self.keys, replace(self.trust, keys={**self.trust.keys, key_id: key}))


def trusted(key: SigningKey, role: Role, party: str, **period: Any) -> TrustKey:
    """A key as the registry has it, in force since 2020."""
    return TrustKey(key.key_id, role, party, key.public_bytes, **{"not_before": 1_577_836_800_000_000, **period})


def the_parties() -> Parties:
    """Issuer, tenant, two possible subcontractors and a stranger, each with one key."""
    names: list[tuple[Role, str]] = [
        ("issuer", ISSUER), ("licensee", TENANT), ("licensee", SUBCONTRACTOR), ("licensee", "other"),
        ("issuer", "another issuer"), ("issuer", TENANT),
    ]  # fmt: skip
    keys = {name: SigningKey.generate() for name in names}
    return Parties(keys, Trust({key.key_id: trusted(key, role, party) for (role, party), key in keys.items()}))
