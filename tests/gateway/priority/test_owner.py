"""Whose a licence is: the owner at the top of a line of re-contracts, by the number that was signed."""

from gateway.licensing.compile import compile_index, owner_of
from gateway.licensing.registers import REGISTERS
from tests.gateway.licensing.contracts import SUBCONTRACTOR, TENANT, a_child, a_document, changed, parsed
from tests.gateway.priority.world import stored

CATALOGUE = {"acme-7b": frozenset({"1.0.0"})}


def test_subcontractor_counts_for_the_owner_at_the_top() -> None:
    licences = stored(parsed(a_document()), parsed(a_child()))
    index = compile_index(licences.values(), CATALOGUE, REGISTERS)
    owners = {tenant: {grant.owner for grant in index[tenant].grants} for tenant in (TENANT, SUBCONTRACTOR)}
    assert owners == {TENANT: {"8700110005901"}, SUBCONTRACTOR: {"8700110005901"}}


def test_licensee_without_a_number_is_an_owner_by_itself() -> None:
    document = parsed(changed(a_document(), {"licensee.hojin_bangou": ""}))
    assert owner_of(document, stored(document)) == f"tenant:{TENANT}"


def test_licence_whose_parent_is_gone_and_a_circle_have_an_owner() -> None:
    child = parsed(a_child())
    assert owner_of(child, stored(child)) == f"tenant:{SUBCONTRACTOR}"
    circle = parsed(changed(a_document(), {"parent": {"licence_id": "lic-acme", "version": 1}}))
    assert owner_of(circle, stored(circle)) == "8700110005901"
