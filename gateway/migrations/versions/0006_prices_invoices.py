"""Rate cards by family with every price model, agreements, invoices and credit notes."""

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
