"""The choice of upstream: the first permitted place serves, and a refusal is the one nearest to a permission."""

from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.licensing.compile import compile_index
from gateway.licensing.decide import Ask, LicenceIndex
from gateway.licensing.document import LicenceDocument, StoredLicence
from gateway.licensing.registers import REGISTERS
from gateway.upstreams.choose import Choice, choose
from gateway.upstreams.types import Profile, Upstream
from tests.licences import a_licence

NOW = 1_795_489_348_000_000
WANTED = Ask("t", "m", "", "chat", "general", "restricted", "", "", "", "", False)


def an_upstream(name: str, **changes: Any) -> Upstream:
    profile = Profile(context_tokens=1, max_output_tokens=1)
    one = Upstream(name, "m", "http://x/v1", "m", None, "heavy", "jp-east", "site-a", profile, 0)
    return msgspec.structs.replace(one, **changes)


def index(*grants: dict[str, Any], versions: tuple[str, ...] = ("1.0.0",)) -> LicenceIndex:
    clauses = [{"id": f"g{n}", "models": ["m"], "actions": ["chat"], **grant} for n, grant in enumerate(grants)]
    document = msgspec.convert(a_licence("t", "lic", clauses), LicenceDocument)
    return compile_index([StoredLicence(document, "d")], {"m": frozenset(versions)}, REGISTERS)


def chosen(licences: LicenceIndex, *upstreams: Upstream, sites: tuple[str, ...] = (), **wanted: Any) -> Choice:
    choice = choose(licences, upstreams, replace(WANTED, **wanted), frozenset(sites), NOW)
    assert choice is not None
    return choice


def test_first_permitted_place_serves() -> None:
    places = (an_upstream("a"), an_upstream("b", region="jp-west"), an_upstream("c", region="jp-west"))
    assert chosen(index({"regions": ["jp-west"]}), *places).upstream.upstream_id == "b"


def test_place_that_decided_is_in_the_question() -> None:
    choice = chosen(index({}), an_upstream("a", country="JP", tier="edge", model_version="2.1"), model_version="")
    assert choice.decision.refusal == "model_version_not_licensed"
    choice = chosen(index({}, versions=("2.1",)), an_upstream("a", tier="edge", model_version="2.1"))
    assert (choice.ask.model_version, choice.ask.tier, choice.ask.region) == ("2.1", "edge", "jp-east")


def test_refusal_nearest_to_a_permission_is_told() -> None:
    places = (an_upstream("a", region="jp-west"), an_upstream("b", tier="edge"))
    licences = index({"regions": ["jp-east"], "tiers": ["heavy"]})
    assert chosen(licences, *places).decision.refusal == "tier_not_licensed"
    assert chosen(licences, *reversed(places)).decision.refusal == "tier_not_licensed"


def test_secret_is_served_at_the_own_site_only() -> None:
    licences = index({"data_classes": ["secret"]})
    places = (an_upstream("a", site="shared"), an_upstream("b", site="mine"))
    assert chosen(licences, *places, sites=("mine",), data_class="secret").upstream.upstream_id == "b"
    assert chosen(licences, *places, sites=("shared2",), data_class="secret").decision.refusal == (
        "secret_needs_own_site"
    )


def test_pinned_version_is_served_by_its_own_upstream_or_not_at_all() -> None:
    licences = index({"models": ["m@>=1"]}, versions=("1.0", "2.0"))
    places = (an_upstream("new", model_version="2.0"), an_upstream("old", model_version="1.0"))
    assert chosen(licences, *places).upstream.upstream_id == "new"
    assert chosen(licences, *places, model_version="1.0").upstream.upstream_id == "old"
    assert choose(licences, places, replace(WANTED, model_version="3.0"), frozenset(), NOW) is None


def test_without_a_grant_or_an_upstream_there_is_nothing_to_choose() -> None:
    assert choose(index({}), (), WANTED, frozenset(), NOW) is None
    assert choose(index({}), (an_upstream("a"),), replace(WANTED, tenant_id="other"), frozenset(), NOW) is None
