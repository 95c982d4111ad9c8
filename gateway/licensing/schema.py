"""The JSON Schema of a licence document, made from the structs that read it.

`python -m gateway.licensing.schema` prints it; `docs/licence.schema.json` is that output.
"""

import json
import sys
from typing import Any

import msgspec

from gateway.licensing.document import LicenceDocument

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema. It holds the form; what codes, times and patterns must mean is `gateway.licensing.semantics`."""
    return {
        "$schema": DIALECT,
        "$id": "urn:sekisho:licence:1",
        "title": "Sekisho licence document",
        **msgspec.json.schema(LicenceDocument),
    }


def schema_text() -> str:
    """The schema as the published file holds it."""
    return json.dumps(json_schema(), ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
