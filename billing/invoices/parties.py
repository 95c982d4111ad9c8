"""Who issues invoices and who gets them: master data that may change; a closed document keeps its own copy."""

from dataclasses import dataclass
from typing import Any

from billing.invoices.refused import InvoiceRefused
from billing.invoices.registration import is_registration_number
from billing.invoices.types import Party

_FIELDS = "name, hojin_bangou, postal_code, address, country, email"

_PUT_ISSUER = """
INSERT INTO billing_issuer (issuer_id, name, registration_number, hojin_bangou, postal_code, address, country, email,
  bank_account, number_prefix, year_begins, due_months)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (issuer_id) DO UPDATE SET name = excluded.name, registration_number = excluded.registration_number,
  hojin_bangou = excluded.hojin_bangou, postal_code = excluded.postal_code, address = excluded.address,
  country = excluded.country, email = excluded.email, bank_account = excluded.bank_account,
  due_months = excluded.due_months
WHERE (billing_issuer.number_prefix, billing_issuer.year_begins) = (excluded.number_prefix, excluded.year_begins)
RETURNING issuer_id
"""

_PUT_PARTY = """
INSERT INTO billing_party (tenant_id, issuer_id, name, hojin_bangou, postal_code, address, country, email)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id) DO UPDATE SET issuer_id = excluded.issuer_id, name = excluded.name,
  hojin_bangou = excluded.hojin_bangou, postal_code = excluded.postal_code, address = excluded.address,
  country = excluded.country, email = excluded.email
"""

# A tenant without an entry of its own is invoiced under its legal name, by the only issuer there is.
_OF_TENANT = """
SELECT t.zone, t.legal_name, t.hojin_bangou AS tenant_hojin, p.issuer_id, p.name, p.hojin_bangou, p.postal_code,
  p.address, p.country, p.email, (SELECT min(issuer_id) FROM billing_issuer HAVING count(*) = 1) AS only_issuer
FROM tenant t LEFT JOIN billing_party p USING (tenant_id) WHERE t.tenant_id = $1
"""

_ISSUER = f"""
SELECT issuer_id, registration_number, bank_account, number_prefix, year_begins, due_months, {_FIELDS}
FROM billing_issuer WHERE issuer_id = $1
"""  # noqa: S608 # names of our own


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who issues documents. Numbers begin with `number_prefix` and start anew in the month `year_begins`; money is due
    at the end of the `due_months`-th month after the one charged."""

    issuer_id: str
    party: Party
    number_prefix: str = ""
    year_begins: int = 1
    due_months: int = 1


@dataclass(frozen=True, slots=True)
class Parties:
    """Both sides of a tenant's invoices. `issuer` is None where nobody is entered."""

    zone: str
    recipient: Party
    issuer: Issuer | None


async def put_issuer(connection: Any, issuer: Issuer) -> None:
    """Enter or change an issuer. Raises `InvoiceRefused` for a registration number that is none, and for another series
    of numbers than the one begun."""
    party = issuer.party
    check_registration(party)
    entered = await connection.fetchval(
        _PUT_ISSUER, issuer.issuer_id, party.name, party.registration_number, party.hojin_bangou, party.postal_code,
        party.address, party.country, party.email, party.bank_account, issuer.number_prefix, issuer.year_begins,
        issuer.due_months,
    )  # fmt: skip
    if entered is None:
        raise InvoiceRefused("series_fixed", "number_prefix", "prefix and first month of the numbers never change")


async def put_party(connection: Any, tenant_id: str, issuer_id: str, party: Party) -> None:
    """Enter or change who gets a tenant's invoices, and from which issuer."""
    await connection.execute(
        _PUT_PARTY, tenant_id, issuer_id, party.name, party.hojin_bangou, party.postal_code, party.address,
        party.country, party.email,
    )  # fmt: skip


async def issuer_of(connection: Any, issuer_id: str) -> Issuer | None:
    """An issuer; None for an unknown one."""
    row = await connection.fetchrow(_ISSUER, issuer_id)
    if row is None:
        return None
    party = Party(
        row["name"], row["registration_number"], row["hojin_bangou"], row["postal_code"], row["address"],
        row["country"], row["email"], row["bank_account"],
    )  # fmt: skip
    return Issuer(row["issuer_id"], party, row["number_prefix"], row["year_begins"], row["due_months"])


async def parties_of(connection: Any, tenant_id: str) -> Parties:
    """Both sides of a tenant's invoices. Raises `InvoiceRefused` for an unknown tenant."""
    row = await connection.fetchrow(_OF_TENANT, tenant_id)
    if row is None:
        raise InvoiceRefused("tenant_not_found", "tenant_id", f"there is no tenant {tenant_id[:40]!r}")
    if row["issuer_id"] is None:
        recipient, issuer_id = Party(row["legal_name"], hojin_bangou=row["tenant_hojin"] or ""), row["only_issuer"]
    else:
        recipient = Party(
            row["name"], "", row["hojin_bangou"], row["postal_code"], row["address"], row["country"], row["email"]
        )
        issuer_id = row["issuer_id"]
    return Parties(row["zone"], recipient, None if issuer_id is None else await issuer_of(connection, issuer_id))


def check_registration(party: Party) -> None:
    """Raises `InvoiceRefused` unless `party` may issue qualified invoices."""
    if not party.name.strip() or not is_registration_number(party.registration_number):
        raise InvoiceRefused(
            "registration_invalid", "registration_number",
            f"the issuer needs a name and a registration number, T and 13 digits with the right check digit;"
            f" {party.registration_number[:20]!r} is none",
        )  # fmt: skip
