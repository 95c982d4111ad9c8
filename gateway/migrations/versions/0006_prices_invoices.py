"""Rate cards by family with every price model, agreements, credit paid ahead, parties, invoices and credit notes."""

from alembic import op

revision = "0006"
down_revision = "0005"

_PRICES = (
    """
ALTER TABLE rate_card
  ADD COLUMN family text NOT NULL DEFAULT 'published' CHECK (family ~ '^[A-Za-z0-9._:-]{1,64}$'),
  ADD COLUMN tenant_id text REFERENCES tenant,
  ADD COLUMN terms jsonb NOT NULL DEFAULT '{}',
  DROP CONSTRAINT rate_card_check,
  ADD CONSTRAINT rate_card_check CHECK (effective_to >= effective_from)""",
    # A card that ends as it begins is never in force. Of two others that begin together nothing tells which counts.
    """
CREATE UNIQUE INDEX rate_card_start ON rate_card (model, family, tenant_id, effective_from) NULLS NOT DISTINCT
  WHERE effective_to IS DISTINCT FROM effective_from""",
    """
CREATE TABLE billing_agreement (
  agreement_id text PRIMARY KEY CHECK (agreement_id ~ '^[A-Za-z0-9._:-]{1,64}$'),
  tenant_id text NOT NULL REFERENCES tenant,
  effective_from timestamptz NOT NULL,
  effective_to timestamptz CHECK (effective_to >= effective_from),
  terms jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
)""",
    "CREATE INDEX billing_agreement_tenant ON billing_agreement (tenant_id)",
    """
CREATE TABLE prepaid_credit (
  credit_id text PRIMARY KEY CHECK (credit_id ~ '^[A-Za-z0-9._:-]{1,64}$'),
  tenant_id text NOT NULL REFERENCES tenant,
  yen bigint NOT NULL CHECK (yen BETWEEN 1 AND 1000000000000),
  effective_from timestamptz NOT NULL,
  expires_at timestamptz NOT NULL CHECK (expires_at > effective_from),
  note text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now()
)""",
    "CREATE INDEX prepaid_credit_tenant ON prepaid_credit (tenant_id)",
    # 消費税率 is dated data. The rates before 2014 have no use here.
    """
CREATE TABLE tax_rate (
  category text NOT NULL CHECK (category IN ('standard', 'reduced')),
  effective_from date NOT NULL,
  permille integer NOT NULL CHECK (permille BETWEEN 0 AND 1000),
  basis text NOT NULL,
  PRIMARY KEY (category, effective_from)
)""",
    """
INSERT INTO tax_rate (category, effective_from, permille, basis) VALUES
  ('standard', '2014-04-01', 80, '消費税法 29条, 地方税法 72条の83 (平成26年4月1日)'),
  ('standard', '2019-10-01', 100, '消費税法 29条, 地方税法 72条の83 (令和元年10月1日)'),
  ('reduced', '2019-10-01', 80, '消費税法 2条1項9号の2, 29条2号 (令和元年10月1日)')""",
)

_INVOICES = (
    """
CREATE TABLE billing_issuer (
  issuer_id text PRIMARY KEY CHECK (issuer_id ~ '^[a-z0-9][a-z0-9_-]{0,39}$'),
  name text NOT NULL,
  registration_number text NOT NULL,
  hojin_bangou text NOT NULL DEFAULT '',
  postal_code text NOT NULL DEFAULT '',
  address text NOT NULL DEFAULT '',
  country text NOT NULL DEFAULT 'JP',
  email text NOT NULL DEFAULT '',
  bank_account text NOT NULL DEFAULT '',
  number_prefix text NOT NULL DEFAULT '' UNIQUE CHECK (number_prefix ~ '^[A-Z0-9]{0,8}$'),
  year_begins integer NOT NULL DEFAULT 1 CHECK (year_begins BETWEEN 1 AND 12),
  due_months integer NOT NULL DEFAULT 1 CHECK (due_months BETWEEN 0 AND 12)
)""",
    """
CREATE TABLE billing_party (
  tenant_id text PRIMARY KEY REFERENCES tenant,
  issuer_id text NOT NULL REFERENCES billing_issuer,
  name text NOT NULL,
  hojin_bangou text NOT NULL DEFAULT '',
  postal_code text NOT NULL DEFAULT '',
  address text NOT NULL DEFAULT '',
  country text NOT NULL DEFAULT 'JP',
  email text NOT NULL DEFAULT ''
)""",
    # A row and not a sequence: what is rolled back leaves no gap.
    """
CREATE TABLE document_counter (
  issuer_id text NOT NULL REFERENCES billing_issuer,
  kind text NOT NULL CHECK (kind IN ('invoice', 'credit_note')),
  year integer NOT NULL,
  last bigint NOT NULL CHECK (last > 0),
  PRIMARY KEY (issuer_id, kind, year)
)""",
    # The document itself is canonical JSON; the other columns are for looking it up. Its id is also that of its entries
    # in the ledger.
    """
CREATE TABLE invoice (
  invoice_id uuid PRIMARY KEY,
  number text NOT NULL UNIQUE,
  kind text NOT NULL CHECK (kind IN ('invoice', 'credit_note')),
  issuer_id text NOT NULL REFERENCES billing_issuer,
  tenant_id text NOT NULL REFERENCES tenant,
  counterparty text NOT NULL,
  period text NOT NULL,
  period_start timestamptz NOT NULL,
  period_end timestamptz NOT NULL CHECK (period_end > period_start),
  issued_on date NOT NULL,
  total_yen bigint NOT NULL CHECK (total_yen >= 0),
  corrects text REFERENCES invoice (number),
  document text NOT NULL,
  sha256 bytea NOT NULL CHECK (sha256 = sha256(convert_to(document, 'UTF8'))),
  closed_at timestamptz NOT NULL,
  CHECK ((kind = 'credit_note') = (corrects IS NOT NULL))
)""",
    "CREATE UNIQUE INDEX invoice_once ON invoice (tenant_id, period) WHERE kind = 'invoice'",
    "CREATE INDEX invoice_end ON invoice (tenant_id, period_end)",
    "CREATE INDEX invoice_corrects ON invoice (corrects) WHERE corrects IS NOT NULL",
    "CREATE INDEX invoice_issued ON invoice (issued_on)",
    "CREATE INDEX invoice_total ON invoice (total_yen)",
    """
CREATE TABLE prepaid_use (
  credit_id text NOT NULL REFERENCES prepaid_credit,
  invoice_id uuid NOT NULL REFERENCES invoice,
  period_end timestamptz NOT NULL,
  used_yen bigint NOT NULL CHECK (used_yen >= 0),
  expired_yen bigint NOT NULL CHECK (expired_yen >= 0),
  PRIMARY KEY (credit_id, invoice_id)
)""",
    """
CREATE TABLE carried_fraction (
  tenant_id text NOT NULL REFERENCES tenant,
  line_key text NOT NULL,
  period_end timestamptz NOT NULL,
  invoice_id uuid NOT NULL REFERENCES invoice,
  micro_yen integer NOT NULL CHECK (micro_yen BETWEEN 0 AND 999999),
  PRIMARY KEY (tenant_id, line_key, period_end)
)""",
    # Entries of requests keep their request's id; all others have an id of their own.
    """
ALTER TABLE ledger_entry ADD COLUMN source text NOT NULL DEFAULT 'request'
  CHECK (source IN ('request', 'adjustment', 'tax', 'prepaid', 'credit_note'))""",
)

_FUNCTIONS = (
    # What was charged names its card: another price is another card. Only its end may be set.
    """
CREATE FUNCTION fixed_but_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF to_jsonb(OLD) - 'effective_to' - 'changed_epoch' <> to_jsonb(NEW) - 'effective_to' - 'changed_epoch' THEN
    RAISE EXCEPTION 'the terms of a % never change', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$""",
    "CREATE TRIGGER rate_card_fixed BEFORE UPDATE ON rate_card FOR EACH ROW EXECUTE FUNCTION fixed_but_end()",
    "CREATE TRIGGER agreement_fixed BEFORE UPDATE ON billing_agreement FOR EACH ROW EXECUTE FUNCTION fixed_but_end()",
    # A closed month must come out the same for ever, so nothing may begin or end before the watermark. The share lock
    # waits for a closing that has begun: it has not seen this row.
    """
CREATE FUNCTION not_before_watermark() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
  closed timestamptz;
  touched timestamptz := NEW.effective_from;
BEGIN
  SELECT closed_until INTO closed FROM billing_account WHERE tenant_id = NEW.tenant_id FOR KEY SHARE;
  IF TG_OP = 'UPDATE' THEN
    touched := least(OLD.effective_to, NEW.effective_to);
  END IF;
  IF touched < closed THEN
    RAISE EXCEPTION '% before % is closed', TG_TABLE_NAME, closed USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$""",
    (
        "CREATE TRIGGER agreement_open BEFORE INSERT OR UPDATE ON billing_agreement FOR EACH ROW"
        " EXECUTE FUNCTION not_before_watermark()"
    ),
    ("CREATE TRIGGER credit_open BEFORE INSERT ON prepaid_credit FOR EACH ROW EXECUTE FUNCTION not_before_watermark()"),
    # 電子帳簿保存法, 消費税法施行令 50条: kept for seven years (ten, where losses are carried). They are never deleted.
    *(
        statement
        for table in ("invoice", "prepaid_use", "carried_fraction", "prepaid_credit", "tax_rate")
        for statement in (
            (
                f"CREATE TRIGGER {table}_keep BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW"
                " EXECUTE FUNCTION refuse_change()"
            ),
            f"CREATE TRIGGER {table}_whole BEFORE TRUNCATE ON {table} EXECUTE FUNCTION refuse_change()",
        )
    ),
    "CREATE TRIGGER agreement_keep BEFORE DELETE ON billing_agreement FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER ledger_whole BEFORE TRUNCATE ON ledger_entry EXECUTE FUNCTION refuse_change()",
)

_NEW_TABLES = (
    "billing_agreement", "prepaid_credit", "tax_rate", "billing_issuer", "billing_party", "document_counter", "invoice",
    "prepaid_use", "carried_fraction",
)  # fmt: skip

_GRANTS = (
    f"GRANT SELECT ON {', '.join(_NEW_TABLES)} TO sekisho_app, sekisho_auditor",
    "GRANT INSERT ON prepaid_credit, tax_rate, invoice, prepaid_use, carried_fraction TO sekisho_app",
    "GRANT INSERT, UPDATE ON billing_issuer, billing_party, document_counter, billing_agreement TO sekisho_app",
)


def upgrade() -> None:
    for statement in (*_PRICES, *_INVOICES, *_FUNCTIONS, *_GRANTS):
        op.execute(statement)


def downgrade() -> None:
    for statement in (
        "DROP TRIGGER ledger_whole ON ledger_entry",
        # Only entries of requests can be told apart by the older form; the others go with their invoices.
        "ALTER TABLE ledger_entry DISABLE TRIGGER ledger_keep",
        "DELETE FROM ledger_entry WHERE source <> 'request'",
        "ALTER TABLE ledger_entry ENABLE TRIGGER ledger_keep",
        "ALTER TABLE ledger_entry DROP COLUMN source",
        (
            "DROP TABLE carried_fraction, prepaid_use, invoice, document_counter, billing_party, billing_issuer,"
            " tax_rate, prepaid_credit, billing_agreement"
        ),
        "DROP TRIGGER rate_card_fixed ON rate_card",
        "DROP FUNCTION not_before_watermark(), fixed_but_end()",
        # Cards of other families or of one tenant would become everybody's price.
        (
            "DO $$ BEGIN IF EXISTS (SELECT FROM rate_card WHERE family <> 'published' OR tenant_id IS NOT NULL"
            " OR terms <> '{}') THEN RAISE EXCEPTION 'rate cards of tenants, families or with tiers are in the way';"
            " END IF; END $$"
        ),
        "DELETE FROM rate_card WHERE effective_to = effective_from",
        "ALTER TABLE rate_card DROP CONSTRAINT rate_card_check",
        "ALTER TABLE rate_card ADD CONSTRAINT rate_card_check CHECK (effective_to > effective_from)",
        "ALTER TABLE rate_card DROP COLUMN family, DROP COLUMN tenant_id, DROP COLUMN terms",
    ):
        op.execute(statement)
