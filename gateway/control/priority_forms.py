"""What the admin plane takes and answers about priority."""

from typing import Any, Literal

from pydantic import Field

from gateway.control import fields as f
from gateway.control.answers import Answer, Licence, ProblemAnswer
from gateway.control.forms import Form
from gateway.control.paging import Paging


class NewContribution(Form):
    """Data that somebody has contributed. `hojin_bangou` is the beneficial owner's, `contributed_at` the day from which
    an exclusivity is counted."""

    contribution_id: f.ObjectId
    contributor: f.Name
    hojin_bangou: f.OwnerNumber
    industry: f.Name
    data_contract: f.Name
    data_class: f.DataClass
    contributed_at: f.Time


class NewModel(Form):
    """A model version and where it comes from. `national_base`: a base model funded by the national programme."""

    model: f.ModelName
    model_version: f.ModelVersion
    origin: Literal["national_base", "derived"]
    base_model: f.Text = ""
    contributions: f.ContributionIds = Field(default_factory=list)


class ModelQuery(Paging):
    """Which model versions: of one model, or all."""

    model: f.ModelName | None = None


class StandingQuery(Form):
    """Which model (`name`, or `name@version`; the newest version by default), and when (now by default)."""

    model: f.Release
    at: f.Time | None = None


class Contribution(Answer):
    """A contribution. Nothing follows from it once it is withdrawn."""

    contribution_id: str
    contributor: str
    hojin_bangou: str
    industry: str
    data_contract: str
    data_class: str
    contributed_at: str
    withdrawn_at: str | None
    created_at: str


class Model(Answer):
    """A model version and its lineage."""

    model: str
    model_version: str
    origin: str
    base_model: str
    contributions: list[str]
    created_at: str


class Policy(Answer):
    """A signed priority policy. Shares in permille."""

    version: int
    effective_from: str
    document: dict[str, Any]
    envelope: str
    created_at: str


class SubmittedLicence(Licence):
    """A licence that was put into force; `notices` tell what it says and what has no effect as things are."""

    notices: list[ProblemAnswer]


class WindowAnswer(Answer):
    """An exclusivity that runs. `until` is told to its holder only."""

    own: bool
    until: str | None


class ReasonAnswer(Answer):
    """A rule and how it applies."""

    rule: str
    code: str
    text: str


class StandingAnswer(Answer):
    """How a tenant stands with a model version. `floor_permille` is what the open group gets of each pool at least."""

    tenant: str
    model: str
    model_version: str
    at: str
    open: bool
    group: str
    owner: str
    weight: int
    band: int
    window: WindowAnswer | None
    floor_permille: int
    policy: int
    why: list[ReasonAnswer]
