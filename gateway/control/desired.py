"""The desired state of the book, as files say it: what is to be there, and what is to be ended.

A field that is left out has its default, as everywhere on the admin plane. A key is known by its label, or where it has
none by its `key_id`; it is ended by `state: revoked`, never by being left out.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from gateway.control import fields as f
from gateway.control.billing_forms import NewAgreement, NewRateCard
from gateway.control.credential_forms import AccessFields, NewClient, NewIssuer
from gateway.control.forms import ENVELOPE_CHARS_MAX, Form, NewProject, NewTenant, NewTrustKey, NewUpstream
from gateway.control.priority_forms import NewContribution, NewModel
from gateway.control.refusals import Problem
from gateway.faults import Fault

TENANTS_MAX = 2_000
ENTRIES_MAX = 10_000
State = Literal["active", "revoked"]


class DesiredKey(AccessFields):
    """An API key. Its text is never in a file: a new one is answered once when the state is applied."""

    key_id: f.KeyId | None = None
    state: State = "active"


class DesiredClient(NewClient):
    """An OAuth client."""

    client_id: f.CredentialId | None = None
    state: State = "active"


class DesiredIssuer(NewIssuer):
    """A tenant's own OpenID issuer, known by its URL."""

    state: State = "active"


class DesiredLicence(Form):
    """A signed licence; with `state: revoked` and a reason one that is to be ended."""

    envelope: str = Field(min_length=1, max_length=ENVELOPE_CHARS_MAX)
    state: State = "active"
    reason: f.Text = ""

    @model_validator(mode="after")
    def _end_has_a_reason(self) -> "DesiredLicence":
        if (self.state == "revoked") != bool(self.reason):
            raise ValueError("a reason goes with state: revoked, and with no other")
        return self


class DesiredTenant(NewTenant):
    """A tenant with all that is its own."""

    projects: list[NewProject] = Field(default_factory=list, max_length=ENTRIES_MAX)
    keys: list[DesiredKey] = Field(default_factory=list, max_length=ENTRIES_MAX)
    clients: list[DesiredClient] = Field(default_factory=list, max_length=ENTRIES_MAX)
    issuers: list[DesiredIssuer] = Field(default_factory=list, max_length=ENTRIES_MAX)
    licences: list[DesiredLicence] = Field(default_factory=list, max_length=ENTRIES_MAX)
    agreements: list[NewAgreement] = Field(default_factory=list, max_length=ENTRIES_MAX)


class DesiredTrustKey(NewTrustKey):
    """A key whose signatures on licences count, or no longer do."""

    state: State = "active"


class DesiredUpstream(NewUpstream):
    """An engine endpoint, in use or retired."""

    state: Literal["active", "retired"] = "active"


class DesiredContribution(NewContribution):
    """What somebody has contributed, in force or withdrawn."""

    state: Literal["active", "withdrawn"] = "active"


class Desired(Form):
    """Everything. A part that is absent is left alone, and not compared either."""

    v: Literal[1] = 1
    tenants: list[DesiredTenant] | None = Field(default=None, max_length=TENANTS_MAX)
    trust_keys: list[DesiredTrustKey] | None = Field(default=None, max_length=ENTRIES_MAX)
    upstreams: list[DesiredUpstream] | None = Field(default=None, max_length=ENTRIES_MAX)
    rate_cards: list[NewRateCard] | None = Field(default=None, max_length=ENTRIES_MAX)
    contributions: list[DesiredContribution] | None = Field(default=None, max_length=ENTRIES_MAX)
    models: list[NewModel] | None = Field(default=None, max_length=ENTRIES_MAX)


PARTS = ("tenants", "trust_keys", "upstreams", "rate_cards", "contributions", "models")


def contradictions(desired: Desired) -> list[Problem]:
    """What is named twice, or by nothing: none of it can be told from the fields alone."""
    seen: dict[tuple[str, ...], str] = {}
    problems = []
    for path, name in _names(desired):
        if not name[-1]:
            problems.append(Problem(path, Fault("missing_parameter", param=path)))
        elif name in seen:
            problems.append(Problem(path, Fault("already_exists", param=path, kind=name[0], name=name[-1])))
        else:
            seen[name] = path
    return problems


def _names(desired: Desired) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every entry's naming field, and the name that must be its own."""
    owners: set[str] = set()
    for number, tenant in enumerate(desired.tenants or ()):
        here, owner = f"tenants[{number}]", tenant.tenant_id
        yield f"{here}.tenant_id", ("tenant", owner)
        if owner in owners:
            continue  # said once already, and what it has would be said again and again
        owners.add(owner)
        yield from _names_within(here, tenant)
    for number, trust_key in enumerate(desired.trust_keys or ()):
        yield f"trust_keys[{number}].public_key", ("trust_key", trust_key.public_key)
    for number, upstream in enumerate(desired.upstreams or ()):
        yield f"upstreams[{number}].upstream_id", ("upstream", upstream.upstream_id)
    for number, card in enumerate(desired.rate_cards or ()):
        yield f"rate_cards[{number}].rate_card_id", ("rate_card", card.rate_card_id)
    for number, contribution in enumerate(desired.contributions or ()):
        yield f"contributions[{number}].contribution_id", ("contribution", contribution.contribution_id)
    for number, model in enumerate(desired.models or ()):
        yield f"models[{number}].model_version", ("model", f"{model.model}/{model.model_version}")


def _names_within(here: str, tenant: DesiredTenant) -> Iterator[tuple[str, tuple[str, ...]]]:
    owner = tenant.tenant_id
    for place, project in enumerate(tenant.projects):
        yield f"{here}.projects[{place}].project_id", ("project", owner, project.project_id)
    for place, key in enumerate(tenant.keys):
        yield f"{here}.keys[{place}].label", ("key", owner, key.key_id or key.label)
    for place, client in enumerate(tenant.clients):
        yield f"{here}.clients[{place}].label", ("client", owner, client.client_id or client.label)
    for place, issuer in enumerate(tenant.issuers):
        yield f"{here}.issuers[{place}].issuer", ("issuer", issuer.issuer)
    for place, agreement in enumerate(tenant.agreements):
        yield f"{here}.agreements[{place}].agreement_id", ("agreement", agreement.agreement_id)
