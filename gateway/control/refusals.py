"""How the admin plane says no: the error envelope of the data plane, for faults, findings and lists of problems.

Fault      one refusal of the catalogue
Finding    what is wrong with a licence; its code and path are the error's code and param
Problems   several at once, each with its own code, place and cure (`error.problems`)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from gateway.edge.parse import PARAM_CHARS_MAX
from gateway.faults import CATALOGUE, Fault, Language
from gateway.licensing.findings import Finding

PROBLEMS_MAX = 200
# What passes by itself: no connection, a database that starts, stops, is full or busy, a lock or a time-out. Everything
# else that a driver raises is a mistake of ours.
_UNAVAILABLE: tuple[type[Exception], ...] = (
    OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError, asyncpg.TransactionRollbackError, asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)  # fmt: skip
# What `param` says where the body as a whole is wrong.
WHOLE = "body"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, at `path` (dotted; '' is the whole). `cause` carries code, text and cure."""

    path: str
    cause: Fault | Finding

    @property
    def code(self) -> str:
        """The stable code."""
        return self.cause.code if isinstance(self.cause, Finding) else self.cause.code.name

    def outside(self, language: Language) -> dict[str, str]:
        """As answers show it."""
        return {"path": self.path, "code": self.code, "message": self.cause.text(language),
                "cure": self.cause.cure(language)}  # fmt: skip


class Problems(Exception):
    """Everything that is wrong with a desired state; nothing of it was written."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(*(f"{problem.path}: {problem.code}" for problem in problems[:PROBLEMS_MAX]))
        self.problems = problems[:PROBLEMS_MAX]


Refusal = Fault | Finding | Problems


def status_of(refusal: Refusal) -> int:
    """The HTTP status."""
    return refusal.code.status if isinstance(refusal, Fault) else 422


def error_of(refusal: Refusal, language: Language, request_id: str) -> dict[str, Any]:
    """The error object (`docs/admin.md`)."""
    if isinstance(refusal, Problems):
        whole = Fault("plan_refused", count=len(refusal.problems))
        listed = [problem.outside(language) for problem in refusal.problems]
        return {**error_of(whole, language, request_id), "problems": listed}
    if isinstance(refusal, Finding):
        code, kind, param = refusal.code, CATALOGUE["invalid_value"].type, refusal.path or None
    else:
        code, kind, param = refusal.code.name, refusal.code.type, refusal.param
    return {
        "message": refusal.text(language),
        "type": kind,
        "param": param,
        "code": code,
        "cure": refusal.cure(language),
        "request_id": request_id,
    }


def invalid(errors: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """Pydantic's errors as problems. The texts are ours; Pydantic's own only tell what was expected."""
    return [_problem(path_of(error["loc"]), error) for error in errors]


def first_invalid(error: RequestValidationError) -> Fault:
    """The fault of a request whose body, query or path does not fit: the first field that is wrong."""
    found = error.errors()[0]
    source, *location = found["loc"]
    fault = _problem(path_of(location), found).cause
    assert isinstance(fault, Fault)
    if source == "body" and not location:
        return not_an_object()
    return fault


def not_an_object() -> Fault:
    """The fault of a body that is none."""
    return Fault("invalid_type", param=WHOLE, detail="a JSON object was expected")


def first_problem(form: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Raises the `Fault` of the first field of `values` that does not fit `form`."""
    try:
        form.model_validate(values)
    except ValidationError as error:
        cause = invalid(error.errors())[0].cause
        assert isinstance(cause, Fault)
        raise cause from None


def path_of(location: Sequence[Any]) -> str:
    """A dotted path: `tenants[0].keys[1].label`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else str(part)
    return path[:PARAM_CHARS_MAX]


_TYPES = frozenset(
    {"int_type", "string_type", "list_type", "dict_type", "bool_type", "model_type", "model_attributes_type",
     "int_from_float", "int_parsing", "bool_parsing"}
)  # fmt: skip


def _problem(path: str, error: Mapping[str, Any]) -> Problem:
    kind = error["type"]
    if kind == "extra_forbidden":
        return Problem(path, Fault("unknown_field", param=path))
    if kind == "missing":
        return Problem(path, Fault("missing_parameter", param=path))
    code: Literal["invalid_type", "invalid_value"] = "invalid_type" if kind in _TYPES else "invalid_value"
    detail = str(error["msg"]).removeprefix("Value error, ")[:PARAM_CHARS_MAX]
    return Problem(path, Fault(code, param=path or WHOLE, detail=detail))


def not_found(kind: str, name: str, param: str | None = None) -> Fault:
    """The one answer for what does not exist and for what is out of the caller's reach."""
    return Fault("object_not_found", param=param, kind=kind, name=name[:PARAM_CHARS_MAX])


def violation(error: asyncpg.PostgresError, kind: str, name: str) -> Fault:
    """What the schema refused, without a word of SQL."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return Fault("already_exists", kind=kind, name=name, internal=repr(error))
    if isinstance(error, asyncpg.ForeignKeyViolationError):
        return Fault("invalid_value", param="project_id", detail="no project of this tenant", internal=repr(error))
    if isinstance(error, asyncpg.RestrictViolationError):
        detail = "nothing begins or ends before the end of the tenant's last closed month"
        return Fault("period_closed", detail=detail, internal=repr(error))
    if isinstance(error, asyncpg.IntegrityConstraintViolationError | asyncpg.DataError):
        detail = f"the book does not take this {kind}"
        return Fault("invalid_value", param=WHOLE, detail=detail, internal=repr(error))
    return unavailable(error) if is_unavailable(error) else Fault("internal", internal=repr(error))


def is_unavailable(error: BaseException) -> bool:
    """Whether the book does not answer, which may pass. Of the driver's errors the ones that are also a `ValueError`
    tell of an argument that PostgreSQL has no form for."""
    return isinstance(error, _UNAVAILABLE) and not isinstance(error, ValueError)


def unavailable(error: BaseException) -> Fault:
    """The book does not answer at present."""
    return Fault("store_unavailable", retry_after_s=1, internal=repr(error))
