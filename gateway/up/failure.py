"""The one exception of the local stack."""


class UpError(Exception):
    """The stack cannot start or go on. `str()` is the one line that the user reads: what happened, and what to do."""

    def __init__(self, what: str, cure: str, *, detail: str = "") -> None:
        """`what` and `cure` are half sentences without a full stop; `detail` is shown below the line (log lines)."""
        super().__init__(f"{what}; {cure}")
        self.detail = detail
