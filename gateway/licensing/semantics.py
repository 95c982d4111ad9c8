"""What a well-formed document must mean: codes of the registers, spans of time, parties, delegation. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from gateway.licensing.document import GrantClause, LicenceDocument, Match, Models
from gateway.licensing.findings import Finding
from gateway.licensing.patterns import PatternError, RangeError, parse_pattern
from gateway.licensing.registers import DIMENSIONS, Registers

EVERY = "*"
# Keeps all arithmetic on moments in range, and catches a year that lost a digit.
YEAR_MIN, YEAR_MAX = 2000, 2999


def check_meaning(document: LicenceDocument, registers: Registers) -> None:
    """Raise the first `Finding` of a document that has the right form and no right meaning."""
    _check_parties(document)
    _check_times(document)
    _check_ids("grants", [grant.id for grant in document.grants])
    _check_ids("prohibitions", [prohibition.id for prohibition in document.prohibitions])
    for path, clause in clauses(document):
        _check_clause(path, clause, registers)
    _check_delegation(document)


def clauses(document: LicenceDocument) -> Iterator[tuple[str, GrantClause | Match]]:
    """Grants and the matches of prohibitions, with their paths."""
    for place, grant in enumerate(document.grants):
        yield f"grants[{place}]", grant
    for place, prohibition in enumerate(document.prohibitions):
        yield f"prohibitions[{place}].match", prohibition.match


def hojin_bangou_is_valid(number: str) -> bool:
    """Whether a corporate number (法人番号) has 13 digits and the right check digit, the first one:
    9 − Σ P·Q mod 9 over the others from the right, Q = 1, 2 alternating (Ministry of Finance Ordinance No. 70 of 2014).
    """
    if len(number) != 13 or not (number.isascii() and number.isdigit()):
        return False
    total = sum(int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(number[1:])))
    return int(number[0]) == 9 - total % 9


def _check_parties(document: LicenceDocument) -> None:
    if document.issuer == document.licensee.tenant:
        raise Finding("same_party", "issuer", document.issuer)
    number = document.licensee.hojin_bangou
    if number and not hojin_bangou_is_valid(number):
        raise Finding("invalid_hojin_bangou", "licensee.hojin_bangou", number)


def _check_times(document: LicenceDocument) -> None:
    moments: list[tuple[str, datetime]] = [
        ("validity.not_before", document.validity.not_before),
        ("validity.not_after", document.validity.not_after),
        *((f"ip.exclusive[{place}].until", item.until) for place, item in enumerate(document.ip.exclusive)),
    ]
    if document.contract_ref is not None:
        moments.append(("contract_ref.signed_at", document.contract_ref.signed_at))
    for path, moment in moments:
        if not YEAR_MIN <= moment.year <= YEAR_MAX:
            raise Finding("invalid_validity", path, f"the year {moment.year}")
    if not document.validity.not_before < document.validity.not_after:
        raise Finding("invalid_validity", "validity.not_after", "not later than not_before")


def _check_ids(path: str, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for place, clause_id in enumerate(ids):
        if clause_id in seen:
            raise Finding("duplicate_clause", f"{path}[{place}].id", clause_id)
        seen.add(clause_id)


def _check_clause(path: str, clause: GrantClause | Match, registers: Registers) -> None:
    _check_models(f"{path}.models", clause.models)
    for dimension in DIMENSIONS:
        codes: list[str] | None = getattr(clause, dimension)
        # A grant names its actions one by one: an action that is invented later is not granted.
        every = dimension != "actions" or isinstance(clause, Match)
        _check_codes(f"{path}.{dimension}", codes, registers.codes(dimension), every)
    if isinstance(clause, GrantClause):
        _check_wildcard(f"{path}.adapters", clause.adapters)


def _check_models(path: str, models: Models | None) -> None:
    for place, text in enumerate(models or ()):
        try:
            parse_pattern(text)
        except RangeError as error:
            raise Finding("invalid_version_range", f"{path}[{place}]", str(error)) from None
        except PatternError as error:
            raise Finding("invalid_model_pattern", f"{path}[{place}]", str(error)) from None


def _check_codes(path: str, codes: Sequence[str] | None, known: frozenset[str], every: bool) -> None:
    if codes is None:
        return
    if every:
        _check_wildcard(path, codes)
    for place, code in enumerate(codes):
        if code not in known and not (every and code == EVERY):
            raise Finding("unknown_code", f"{path}[{place}]", code)


def _check_wildcard(path: str, codes: Sequence[str]) -> None:
    if EVERY in codes and len(codes) > 1:
        raise Finding("wildcard_not_alone", path)


def _check_delegation(document: LicenceDocument) -> None:
    delegation = document.delegation
    if delegation.allowed and delegation.max_depth == 0:
        raise Finding("invalid_delegation", "delegation.max_depth", "0, though delegation is allowed")
    if not delegation.allowed and delegation.max_depth > 0:
        raise Finding("invalid_delegation", "delegation.max_depth", "more than 0, though delegation is not allowed")
    if not delegation.allowed and delegation.to:
        raise Finding("invalid_delegation", "delegation.to", "names tenants, though delegation is not allowed")
    if document.licensee.tenant in delegation.to:
        raise Finding("invalid_delegation", "delegation.to", "names the licensee itself")
