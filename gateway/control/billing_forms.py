"""The bodies and queries about money: prices, agreements, parties, documents."""

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from billing.agreements import dump_agreement, parse_agreement
from billing.prices import BadTerms, dump_terms, parse_terms
from gateway.control import fields as f
from gateway.control.forms import STAYS, Form

Format = Literal["json", "csv", "pdf", "pint", "focus"]


def _later(end: datetime | None, info: ValidationInfo) -> datetime | None:
    start = info.data.get("effective_from")
    if end is not None and start is not None and end <= start:
        raise ValueError("later than effective_from")
    return end


def _not_before(end: datetime | None, info: ValidationInfo) -> datetime | None:
    start = info.data.get("effective_from")
    if end is not None and start is not None and end < start:
        raise ValueError("effective_from (then it is never in force) or later")
    return end


_End = Annotated[f.Time | None, AfterValidator(_not_before)]


class NewRateCard(Form):
    """Prices of a model in yen per 1M tokens, for [`effective_from`, `effective_to`). `family` is the name by which
    grants choose it, `tenant_id` the only tenant that it is for; `terms` are tiers, packages and other lists
    (docs/billing.md)."""

    rate_card_id: f.ObjectId
    model: f.ModelName
    family: f.Family = "published"
    tenant_id: f.TenantId | None = None
    effective_from: f.Time
    effective_to: _End = None
    input_price: f.Count
    cached_input_price: f.Count
    output_price: f.Count
    terms: f.Terms = Field(default_factory=dict)

    @field_validator("terms")
    @classmethod
    def _are_as_stored(cls, terms: dict[str, Any]) -> dict[str, Any]:
        return _as_stored(terms, lambda text: dump_terms(parse_terms(text)))


class Ending(Form):
    """The end of a rate card or an agreement; null lifts one that is still to come. Terms never change: what was
    charged names them."""

    effective_to: f.Time | None


class NewAgreement(Form):
    """What a tenant has agreed to pay besides tokens, for [`effective_from`, `effective_to`)."""

    agreement_id: f.ObjectId
    effective_from: f.Time
    effective_to: _End = None
    terms: f.Terms

    @field_validator("terms")
    @classmethod
    def _are_as_stored(cls, terms: dict[str, Any]) -> dict[str, Any]:
        return _as_stored(terms, lambda text: dump_agreement(parse_agreement(text)))


class NewCredit(Form):
    """Money that a tenant has paid ahead; it is used for months that it touches, and gone at `expires_at`."""

    credit_id: f.ObjectId
    yen: f.Yen
    effective_from: f.Time
    expires_at: Annotated[f.Time, AfterValidator(_later)]
    note: f.Text = ""


class _Address(Form):
    hojin_bangou: f.HojinBangou = ""
    postal_code: f.Text = ""
    address: f.Text = ""
    country: f.Country = "JP"
    email: f.Text = ""


class NewIssuer(_Address):
    """Who issues qualified invoices (適格請求書発行事業者). Document numbers begin with `number_prefix` and start anew
    in the month `year_begins`; money is due at the end of the `due_months`-th month after the one that is charged."""

    issuer_id: f.TenantId
    name: f.Name
    registration_number: f.RegistrationNumber
    bank_account: f.Text = ""
    number_prefix: Annotated[str, Field(pattern=r"^[A-Z0-9]{0,8}$")] = ""
    year_begins: Annotated[int, Field(strict=True, ge=1, le=12)] = 1
    due_months: Annotated[int, Field(strict=True, ge=0, le=12)] = 1


class IssuerChange(Form):
    """A change of an issuer. Its numbers go on as they began, and closed documents keep what they said."""

    name: f.Name = STAYS
    registration_number: f.RegistrationNumber = STAYS
    hojin_bangou: f.HojinBangou = STAYS
    postal_code: f.Text = STAYS
    address: f.Text = STAYS
    country: f.Country = STAYS
    email: f.Text = STAYS
    bank_account: f.Text = STAYS
    due_months: Annotated[int, Field(strict=True, ge=0, le=12)] = STAYS


class BillingParty(_Address):
    """Who gets a tenant's invoices, and from which issuer."""

    issuer_id: f.TenantId
    name: f.Name


class Printing(Form):
    """How a document is written; `lang` as `Accept-Language` says by default."""

    format: Format = "json"
    lang: Literal["ja", "en"] | None = None


class InvoiceSearch(Form):
    """Which documents: all conditions hold, days and yen are inclusive, `counterparty` is a part of the recipient's
    name (電子帳簿保存法施行規則 2条6項5号)."""

    tenant: f.TenantId | None = None
    period: f.Month | None = None
    issued_from: f.Day | None = None
    issued_to: f.Day | None = None
    min_yen: int | None = Field(default=None, ge=0, le=10**15)
    max_yen: int | None = Field(default=None, ge=0, le=10**15)
    counterparty: f.Text | None = None

    @field_validator("issued_to")
    @classmethod
    def _days_ascend(cls, last: date | None, info: ValidationInfo) -> date | None:
        first = info.data.get("issued_from")
        if first is not None and last is not None and last < first:
            raise ValueError("not before issued_from")
        return last

    @field_validator("max_yen")
    @classmethod
    def _yen_ascend(cls, most: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_yen")
        if least is not None and most is not None and most < least:
            raise ValueError("not less than min_yen")
        return most


class GivenBack(Form):
    """Yen without tax that are given back of one line."""

    line: Annotated[int, Field(strict=True, ge=1, le=f.INT32_MAX)]
    yen: f.Yen


class CreditNote(Form):
    """Why money is given back, and of which lines; without `lines` all that is left."""

    reason: f.Reason
    lines: list[GivenBack] | None = Field(default=None, min_length=1, max_length=1_000)

    @field_validator("lines")
    @classmethod
    def _each_line_once(cls, lines: list[GivenBack] | None) -> list[GivenBack] | None:
        if lines is not None and len({given.line for given in lines}) != len(lines):
            raise ValueError("a line is named twice")
        return lines

    def asked(self) -> Mapping[int, int] | None:
        """Line number → yen."""
        return None if self.lines is None else {given.line: given.yen for given in self.lines}


def _as_stored(terms: dict[str, Any], form: Callable[[str], str]) -> dict[str, Any]:
    """Without what is a default anyway, so that a file and the book can be compared. What means nothing is refused
    later, with the field that is wrong in it."""
    try:
        stored: dict[str, Any] = json.loads(form(json.dumps(terms)))
    except BadTerms:
        return terms
    return stored
