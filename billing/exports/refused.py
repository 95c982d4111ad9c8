"""Why an invoice cannot be written in a format."""


class ExportRefused(ValueError):
    """The invoice lacks what the format demands. `field` is the field of `Invoice` that would have to be filled."""

    def __init__(self, code: str, field: str, detail: str) -> None:
        super().__init__(f"{code}: {field}: {detail}")
        self.code = code
        self.field = field
        self.detail = detail
