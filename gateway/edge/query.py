"""The query of a URL: every parameter once."""

from urllib.parse import parse_qsl

from gateway.faults import Fault

PARAMETERS_MAX = 64
_NAME_CHARS_MAX = 64


def check_query(query: bytes) -> None:
    """Raises `Fault` for a parameter that is named twice: which of its values is meant could only be guessed."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise Fault("invalid_value", param="query", detail=f"{PARAMETERS_MAX} parameters at most") from None
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise Fault("invalid_value", param=name[:_NAME_CHARS_MAX], detail="named once")
        seen.add(name)
