"""Temporary raises of limits, and limits kept by the book while Valkey is away."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
