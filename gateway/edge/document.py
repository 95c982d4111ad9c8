"""What a query of a tenant answers: bytes of one media type."""

from dataclasses import dataclass

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Document:
    """A whole body; with `file_name` (ASCII, no quotes) it is meant to be saved under that name (RFC 6266)."""

    media_type: str
    body: bytes
    file_name: str = ""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer says of the body."""
        said = [(b"content-type", self.media_type.encode("ascii"))]
        if self.file_name:
            said.append((b"content-disposition", f'attachment; filename="{self.file_name}"'.encode("ascii")))
        return said
