"""The types of the fields that the admin plane takes: each with its bounds, so that what is accepted can be stored."""

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Hashable
from datetime import date, datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints

from billing.invoices.registration import is_registration_number
from billing.types import Outcome
from billing.usage import GROUPS
from gateway.control.jwks import checked_jwks
from gateway.identity.access import SCOPES
from gateway.licensing.registers import REGISTERS, Dimension
from gateway.licensing.semantics import hojin_bangou_is_valid
from gateway.upstreams.types import Profile

COUNT_MAX = 2**53 - 1
INT32_MAX = 2**31 - 1
LIST_MAX = 256
REASON_CHARS_MAX = 1_000
SUPPLY_CHAIN_BYTES_MAX = 16 * 1024
YEAR_MIN, YEAR_MAX = 1970, 9998  # beyond, a time may have no form in UTC
MODALITIES = ("image", "text")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_RELEASE = re.compile(r"[A-Za-z0-9._:/-]{1,64}(@[0-9]{1,9}(\.[0-9]{1,9}){0,3})?", re.ASCII)
_WIDE_SPACE = "\u3000"  # of Japanese text; Python calls it not printable
# Names that the system's own zone files have, and PostgreSQL has not.
_LOCAL_ZONES = ("localtime", "Factory", "posixrules", "right/", "posix/")
_T = TypeVar("_T", bound=Hashable)


def _unique(values: list[_T]) -> list[_T]:
    if len(set(values)) != len(values):
        raise ValueError("a value is listed twice")
    return sorted(values)  # type: ignore[type-var] # texts only


def _text_only(value: Any) -> Any:
    """RFC 3339 only: Pydantic would also take numbers of seconds and bare dates."""
    if not isinstance(value, str) or len(value) < 20 or value[10] not in "Tt":
        raise ValueError("an RFC 3339 time with an offset, such as 2026-04-01T00:00:00+09:00")
    return value


def _local(value: Any) -> Any:
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is not None:
            return _bounded(at)
    raise ValueError("an RFC 3339 time, or a date")


def _bounded(at: datetime) -> datetime:
    if not YEAR_MIN <= at.year <= YEAR_MAX:
        raise ValueError(f"a year from {YEAR_MIN} to {YEAR_MAX}")
    return at


def in_zone(at: datetime | None, zone: ZoneInfo) -> datetime | None:
    """A time of the zone where it names no offset."""
    return at if at is None or at.tzinfo is not None else at.replace(tzinfo=zone)


def _day(value: Any) -> Any:
    """RFC 3339's full-date only: Pydantic would also take numbers and times."""
    if not isinstance(value, str) or _DAY.fullmatch(value) is None:
        raise ValueError("a day such as 2026-11-30")
    return value


def _groups(text: str) -> str:
    if not set(filter(None, text.split(","))) <= set(GROUPS):
        raise ValueError(f"comma-separated: {', '.join(GROUPS)}")
    return text


def _outcome(text: str) -> str:
    if text not in set(Outcome):
        raise ValueError(f"one of {', '.join(Outcome)}")
    return text


@cache
def _zones() -> frozenset[str]:
    return frozenset(name for name in available_timezones() if not name.startswith(_LOCAL_ZONES))


def _zone(name: str) -> str:
    if name not in _zones():
        raise ValueError("an IANA time-zone name such as Asia/Tokyo")
    return name


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError("a network without host bits, such as 192.0.2.0/24 or 2001:db8::/32") from None


def _code_of(dimension: Dimension) -> AfterValidator:
    def check(code: str) -> str:
        if code not in REGISTERS.codes(dimension):
            raise ValueError(f"one of the register: {', '.join(sorted(REGISTERS.codes(dimension)))}")
        return code

    return AfterValidator(check)


def _scope(name: str) -> str:
    if name not in SCOPES:
        raise ValueError(f"one of {', '.join(sorted(SCOPES))}")
    return name


def _profile(value: dict[str, Any]) -> dict[str, Any]:
    try:
        profile = msgspec.convert(value, Profile)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(str(error).replace("`", "")) from None
    built: dict[str, Any] = msgspec.to_builtins(profile)
    for name, item in built.items():
        least = 1 if name in ("context_tokens", "max_output_tokens") else 0
        if isinstance(item, int) and not least <= item <= INT32_MAX:
            raise ValueError(f"{name}: {least} to {INT32_MAX}")
    if "text" not in profile.modalities or not set(profile.modalities) <= set(MODALITIES):
        raise ValueError("modalities: text, or text and image")
    return {name: list(item) if isinstance(item, tuple) else item for name, item in built.items()}


def _bounded_json(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) > SUPPLY_CHAIN_BYTES_MAX:
        raise ValueError(f"at most {SUPPLY_CHAIN_BYTES_MAX} bytes of JSON")
    return value


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    if _strange_numbers(value):
        raise ValueError(f"texts and whole numbers up to {COUNT_MAX} only, so that files can say the same")
    return value


def _strange_numbers(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    strange = isinstance(value, float) or (isinstance(value, int) and abs(value) > COUNT_MAX)
    return strange or any(_strange_numbers(item) for item in inner)


def _address(url: str) -> str:
    """`url` of a host and perhaps a port, and of nothing that is not asked for: user, query, fragment (RFC 3986 §3)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("a URL with a host, and a port up to 65535") from None
    if _HOST.fullmatch(host) is None or port == 0:
        raise ValueError("a URL with a host, and a port from 1 to 65535")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise ValueError("a URL without user, query and fragment")
    return url


def _public_key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or base64.b64encode(raw).decode("ascii") != text:
        raise ValueError("the 32 bytes of an Ed25519 public key in base64")
    return text


def _registration(text: str) -> str:
    if not is_registration_number(text):
        raise ValueError("T and 13 digits, the first of which is the right check digit")
    return text


def _corporate_number(text: str) -> str:
    if not hojin_bangou_is_valid(text):
        raise ValueError("13 digits, the first of which is the right check digit")
    return text


def _corporate_number_or_none(text: str) -> str:
    return _corporate_number(text) if text else text


def _release(text: str) -> str:
    if _RELEASE.fullmatch(text) is None:
        raise ValueError("a model's name, or name@version")
    return text


def _printable(text: str) -> str:
    if not text.replace(_WIDE_SPACE, " ").isprintable() or (_WIDE_SPACE in text and not text.strip()):
        raise ValueError("printable characters only")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("at least one character that is no space")
    return text


_List = Field(max_length=LIST_MAX)

TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
ProjectId = TenantId
ObjectId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{12}$")]
LicenceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,32}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{1,64}$")]
ModelVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$")]
Site = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(max_length=200), AfterValidator(_printable)]
Label = Text
Family = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
Month = Annotated[str, StringConstraints(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$")]
Terms = Annotated[dict[str, Any], AfterValidator(_plain), AfterValidator(_bounded_json)]
Yen = Annotated[int, Field(strict=True, ge=0, le=10**15)]
RegistrationNumber = Annotated[str, StringConstraints(max_length=20), AfterValidator(_registration)]
Name = Annotated[Text, StringConstraints(min_length=1), AfterValidator(_said)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=REASON_CHARS_MAX), AfterValidator(_printable)]
HojinBangou = Annotated[str, StringConstraints(max_length=13), AfterValidator(_corporate_number_or_none)]
OwnerNumber = Annotated[str, StringConstraints(max_length=20), AfterValidator(_corporate_number)]
Zone = Annotated[str, StringConstraints(max_length=64), AfterValidator(_zone)]
Time = Annotated[AwareDatetime, BeforeValidator(_text_only), AfterValidator(_bounded)]
Day = Annotated[date, BeforeValidator(_day)]
LocalTime = Annotated[datetime, BeforeValidator(_local)]
UsageOutcome = Annotated[str, AfterValidator(_outcome)]
Groups = Annotated[str, StringConstraints(max_length=100), AfterValidator(_groups)]
Count = Annotated[int, Field(strict=True, ge=0, le=COUNT_MAX)]
SmallCount = Annotated[int, Field(strict=True, ge=0, le=INT32_MAX)]
Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]{1,400}$"), AfterValidator(_address)]
BaseUrl = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]{1,400}/v1$"), AfterValidator(_address)]
HttpsUrl = Annotated[str, StringConstraints(pattern=r"^https://[!-~]{1,400}$"), AfterValidator(_address)]
DataClass = Annotated[str, _code_of("data_classes")]
Purpose = Annotated[str, _code_of("purposes")]
Region = Annotated[str, _code_of("regions")]
Tier = Annotated[str, _code_of("tiers")]
Binding = Literal["none", "dpop", "mtls"]
Sites = Annotated[list[Site], _List, AfterValidator(_unique)]
Scopes = Annotated[list[Annotated[str, AfterValidator(_scope)]], _List, AfterValidator(_unique)]
Release = Annotated[str, StringConstraints(max_length=120), AfterValidator(_release)]
ContributionIds = Annotated[list[ObjectId], _List, AfterValidator(_unique)]
Models = Annotated[list[ModelName], _List, AfterValidator(_unique)]
Purposes = Annotated[list[Purpose], _List, AfterValidator(_unique)]
Networks = Annotated[list[Annotated[str, AfterValidator(_network)]], _List, AfterValidator(_unique)]
TenantIds = Annotated[list[TenantId], _List, AfterValidator(_unique)]
ProfileFields = Annotated[dict[str, Any], AfterValidator(_profile)]
SupplyChain = Annotated[dict[str, Any], AfterValidator(_plain), AfterValidator(_bounded_json)]
PublicKey = Annotated[str, StringConstraints(max_length=44), AfterValidator(_public_key)]
LevelName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(tenant|licence:[A-Za-z0-9._:-]{1,32}/[^\s]{1,60}|project:[a-z0-9][a-z0-9_-]{0,39}"
        r"|key:[0-9A-Za-z_]{12,15})$"
    ),
]
CredentialId = Annotated[str, StringConstraints(pattern=r"^o[ci]_[0-9A-Za-z]{12}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Jwks = Annotated[dict[str, Any], AfterValidator(checked_jwks), AfterValidator(_plain)]
