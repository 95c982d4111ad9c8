"""Metering complete: media tokens, the time of booking, an outbox, the engines' records, the platform's account."""

from alembic import op

revision = "0003"
down_revision = "0002"

_TABLES = (
    """
ALTER TABLE journal
  ADD COLUMN image_tokens bigint NOT NULL DEFAULT 0,
  ADD COLUMN audio_tokens bigint NOT NULL DEFAULT 0,
  ADD COLUMN booked_at timestamptz""",
    """
ALTER TABLE journal_progress
  ADD COLUMN image_tokens bigint NOT NULL DEFAULT 0,
  ADD COLUMN audio_tokens bigint NOT NULL DEFAULT 0""",
    # What was settled before this column counted at its settlement.
    "ALTER TABLE journal DISABLE TRIGGER journal_forward",
    "UPDATE journal SET booked_at = settled_at WHERE settled_at IS NOT NULL",
    "ALTER TABLE journal ENABLE TRIGGER journal_forward",
    "CREATE INDEX journal_booked ON journal (tenant_id, booked_at) WHERE booked_at IS NOT NULL",
    "DROP INDEX journal_usage",
    # The watermark of a tenant: everything before it is invoiced and closed. Settlement reads the row under a share
    # lock, closing moves it under an exclusive one, so no settlement can land before a watermark that it has not seen.
    """
CREATE TABLE billing_account (
  tenant_id text PRIMARY KEY REFERENCES tenant ON DELETE CASCADE,
  closed_until timestamptz NOT NULL DEFAULT '-infinity'
)""",
    "INSERT INTO billing_account (tenant_id) SELECT tenant_id FROM tenant",
    """
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL,
  tenant_id text NOT NULL,
  request_id uuid,
  payload jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now()
)""",
    """
CREATE TABLE witness_record (
  attempt_id text PRIMARY KEY,
  upstream_id text NOT NULL,
  model text NOT NULL,
  state text NOT NULL CHECK (state IN ('finished', 'aborted')),
  prompt_tokens bigint NOT NULL,
  cached_tokens bigint NOT NULL,
  image_tokens bigint NOT NULL,
  audio_tokens bigint NOT NULL,
  completion_tokens bigint NOT NULL,
  reasoning_tokens bigint NOT NULL,
  finish_reason text NOT NULL DEFAULT '',
  started_at timestamptz NOT NULL,
  ended_at timestamptz NOT NULL,
  read_at timestamptz NOT NULL DEFAULT now(),
  reconciled_at timestamptz
)""",
    "CREATE INDEX witness_record_new ON witness_record (read_at) WHERE reconciled_at IS NULL",
    """
CREATE TABLE witness_cursor (
  upstream_id text NOT NULL,
  file text NOT NULL,
  next bigint NOT NULL,
  PRIMARY KEY (upstream_id, file)
)""",
    # What no tenant pays for, with its reason. Append-only.
    """
CREATE TABLE platform_usage (
  attempt_id text PRIMARY KEY,
  upstream_id text NOT NULL,
  model text NOT NULL,
  reason text NOT NULL CHECK (reason IN ('never_delivered', 'superseded', 'uncollected', 'probe', 'unjournaled')),
  prompt_tokens bigint NOT NULL CHECK (prompt_tokens >= 0),
  cached_tokens bigint NOT NULL,
  image_tokens bigint NOT NULL,
  audio_tokens bigint NOT NULL,
  completion_tokens bigint NOT NULL CHECK (completion_tokens >= 0),
  reasoning_tokens bigint NOT NULL,
  ended_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
)""",
    "CREATE INDEX platform_usage_ended ON platform_usage (ended_at)",
    "CREATE INDEX witness_record_ended ON witness_record (ended_at)",
    # Which of a process's flushes of `refusal_count` was the last to be stored: one whose answer got lost counts once.
    "ALTER TABLE instance ADD COLUMN refusals_flushed bigint NOT NULL DEFAULT 0",
    "CREATE INDEX witness_record_since ON witness_record (upstream_id, started_at)",
    "CREATE INDEX ledger_entry_booked ON ledger_entry (booked_at)",
    "CREATE INDEX journal_booked_at ON journal (booked_at) WHERE booked_at IS NOT NULL",
    # How long what is kept, from which day on; `law_days` is the least that the named law allows.
    """
CREATE TABLE retention (
  what text NOT NULL CHECK (what IN ('journal', 'witness_record', 'platform_usage')),
  effective_from date NOT NULL,
  kept_days integer NOT NULL,
  law_days integer NOT NULL,
  basis text NOT NULL,
  PRIMARY KEY (what, effective_from),
  CHECK (kept_days >= law_days)
)""",
    """
INSERT INTO retention (what, effective_from, kept_days, law_days, basis) VALUES
  ('journal', '2024-01-01', 3683, 2557,
    'Books 7 years, 10 where losses are carried: Corporation Tax Act Enforcement Regulations, Art. 59'),
  ('platform_usage', '2024-01-01', 3683, 2557, 'A part of the same books'),
  ('witness_record', '2024-01-01', 400, 183, 'Logs 6 months: Regulation (EU) 2024/1689, Art. 19 and 26(6)')""",
    # One row per day of Asia/Tokyo that was reconciled.
    """
CREATE TABLE reconcile_run (
  day date PRIMARY KEY,
  findings integer NOT NULL,
  report jsonb NOT NULL,
  ran_at timestamptz NOT NULL DEFAULT now()
)""",
)

_FUNCTIONS = (
    """
CREATE FUNCTION kept_since(wanted text) RETURNS timestamptz LANGUAGE sql STABLE
SET search_path = public, pg_temp AS $$
  SELECT now() - kept_days * interval '1 day' FROM retention
  WHERE what = wanted AND effective_from <= (now() AT TIME ZONE 'Asia/Tokyo')::date
  ORDER BY effective_from DESC LIMIT 1
$$""",
    # What is older leaves the table a whole month at a time, under another name; it is not deleted. An operator may
    # export and drop it. An id of that time finds no partition any more: neither a new row nor a settlement.
    """
CREATE FUNCTION journal_retire_partitions() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  old record;
BEGIN
  FOR old IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'journal'::regclass AND c.relname < 'journal_' || to_char(kept_since('journal'), 'YYYYMM')
  LOOP
    EXECUTE format('ALTER TABLE journal DETACH PARTITION %I', old.relname);
    EXECUTE format('ALTER TABLE %I RENAME TO %I', old.relname, 'retired_' || old.relname);
  END LOOP;
END $$""",
    """
CREATE FUNCTION platform_keep() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' AND OLD.ended_at < kept_since('platform_usage') THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'platform_usage is append-only' USING ERRCODE = 'restrict_violation';
END $$""",
    """
CREATE FUNCTION open_billing_account() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$ BEGIN
  INSERT INTO billing_account (tenant_id) VALUES (NEW.tenant_id) ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$""",
    "CREATE TRIGGER tenant_account AFTER INSERT ON tenant FOR EACH ROW EXECUTE FUNCTION open_billing_account()",
    (
        "CREATE TRIGGER platform_keep BEFORE UPDATE OR DELETE ON platform_usage"
        " FOR EACH ROW EXECUTE FUNCTION platform_keep()"
    ),
)

_GRANTS = (
    (
        "GRANT SELECT ON billing_account, outbox, witness_record, witness_cursor, platform_usage, reconcile_run,"
        " retention TO sekisho_app, sekisho_auditor"
    ),
    "GRANT UPDATE ON billing_account TO sekisho_app",
    "GRANT INSERT, UPDATE, DELETE ON outbox TO sekisho_app",
    "GRANT INSERT, UPDATE, DELETE ON witness_record TO sekisho_app",
    "GRANT INSERT, UPDATE ON witness_cursor TO sekisho_app",
    "GRANT INSERT, DELETE ON platform_usage TO sekisho_app",
    "GRANT INSERT ON reconcile_run TO sekisho_app",
    "GRANT EXECUTE ON FUNCTION journal_retire_partitions() TO sekisho_app",
)


def upgrade() -> None:
    for statement in (*_TABLES, *_FUNCTIONS, *_GRANTS):
        op.execute(statement)


def downgrade() -> None:
    for statement in (
        "DROP TRIGGER tenant_account ON tenant",
        (
            "DROP TABLE reconcile_run, retention, platform_usage, witness_cursor, witness_record, outbox,"
            " billing_account"
        ),
        "DROP FUNCTION open_billing_account(), journal_retire_partitions(), platform_keep(), kept_since(text)",
        "DROP INDEX ledger_entry_booked, journal_booked_at",
        "DROP INDEX journal_booked",
        "CREATE INDEX journal_usage ON journal (tenant_id, settled_at) WHERE settled_at IS NOT NULL",
        "ALTER TABLE journal_progress DROP COLUMN image_tokens, DROP COLUMN audio_tokens",
        "ALTER TABLE journal DROP COLUMN image_tokens, DROP COLUMN audio_tokens, DROP COLUMN booked_at",
    ):
        op.execute(statement)
