"""The main road: tenants, keys, licences, upstreams, rate cards; journal, ledger, audit_pending."""

from alembic import op

revision = "0001"
down_revision = None

_ROLES = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sekisho_app') THEN
    CREATE ROLE sekisho_app NOLOGIN;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sekisho_auditor') THEN
    CREATE ROLE sekisho_auditor NOLOGIN;
  END IF;
END $$
"""

_TABLES = (
    """
CREATE TABLE tenant (
  tenant_id text PRIMARY KEY CHECK (tenant_id ~ '^[a-z0-9][a-z0-9_-]{0,39}$'),
  legal_name text NOT NULL,
  zone text NOT NULL DEFAULT 'Asia/Tokyo',
  tokens_month bigint NOT NULL CHECK (tokens_month BETWEEN 0 AND 9007199254740991),
  micro_yen_month bigint NOT NULL CHECK (micro_yen_month BETWEEN 0 AND 9007199254740991),
  rpm integer NOT NULL CHECK (rpm >= 0),
  concurrency integer NOT NULL CHECK (concurrency >= 0),
  created_at timestamptz NOT NULL DEFAULT now()
)""",
    """
CREATE TABLE api_key (
  key_id text PRIMARY KEY CHECK (key_id ~ '^[0-9A-Za-z]{12}$'),
  tenant_id text NOT NULL REFERENCES tenant,
  mac bytea NOT NULL CHECK (octet_length(mac) = 32),
  pepper_id text NOT NULL,
  label text NOT NULL DEFAULT '',
  purpose text NOT NULL DEFAULT 'general',
  data_class text NOT NULL DEFAULT 'restricted' CHECK (data_class IN ('public', 'restricted', 'secret')),
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz
)""",
    """
CREATE TABLE licence (
  licence_id text NOT NULL CHECK (licence_id ~ '^[A-Za-z0-9._:-]{1,32}$'),
  version integer NOT NULL CHECK (version > 0),
  tenant_id text NOT NULL REFERENCES tenant,
  document jsonb NOT NULL,
  CHECK (document->>'licence_id' = licence_id AND (document->>'version')::integer = version
    AND document->'licensee'->>'tenant' = tenant_id),
  signed boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz,
  PRIMARY KEY (licence_id, version)
)""",
    """
CREATE TABLE upstream (
  upstream_id text PRIMARY KEY,
  model text NOT NULL CHECK (model ~ '^[A-Za-z0-9._:/-]{1,64}$'),
  base_url text NOT NULL,
  served_model text NOT NULL,
  witness_url text,
  tier text NOT NULL CHECK (tier IN ('heavy', 'edge')),
  region text NOT NULL,
  site text NOT NULL,
  profile jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
)""",
    """
CREATE TABLE rate_card (
  rate_card_id text PRIMARY KEY,
  model text NOT NULL,
  effective_from timestamptz NOT NULL,
  effective_to timestamptz,
  input_price bigint NOT NULL CHECK (input_price >= 0),
  cached_input_price bigint NOT NULL CHECK (cached_input_price >= 0),
  output_price bigint NOT NULL CHECK (output_price >= 0),
  CHECK (effective_to IS NULL OR effective_to > effective_from)
)""",
    # One row: every change of who may do what raises the epoch, and gateways poll it.
    "CREATE TABLE config_epoch (one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL)",
    "INSERT INTO config_epoch (epoch) VALUES (1)",
    """
CREATE TABLE instance (
  instance_id text PRIMARY KEY,
  kind text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  heartbeat_at timestamptz NOT NULL DEFAULT now()
)""",
    """
CREATE TABLE journal (
  request_id uuid PRIMARY KEY,
  tenant_id text NOT NULL,
  key_id text NOT NULL,
  model text NOT NULL,
  action text NOT NULL,
  purpose text NOT NULL DEFAULT '',
  data_class text NOT NULL DEFAULT '',
  region text NOT NULL DEFAULT '',
  tier text NOT NULL DEFAULT '',
  site text NOT NULL DEFAULT '',
  upstream_id text NOT NULL DEFAULT '',
  rule_id text NOT NULL DEFAULT '',
  licence_id text NOT NULL DEFAULT '',
  licence_version integer NOT NULL DEFAULT 0,
  epoch bigint NOT NULL,
  rate_card_id text NOT NULL DEFAULT '',
  instance_id text NOT NULL,
  period text NOT NULL DEFAULT '',
  stream boolean NOT NULL DEFAULT false,
  held_tokens bigint NOT NULL DEFAULT 0,
  held_micro_yen bigint NOT NULL DEFAULT 0,
  state text NOT NULL CHECK (state IN ('open', 'dispatched', 'streaming', 'settled', 'recovered', 'voided')),
  attempt smallint NOT NULL DEFAULT 1,
  outcome text,
  code text,
  http_status smallint,
  finish_reason text,
  prompt_tokens bigint NOT NULL DEFAULT 0,
  cached_tokens bigint NOT NULL DEFAULT 0,
  completion_tokens bigint NOT NULL DEFAULT 0,
  reasoning_tokens bigint NOT NULL DEFAULT 0,
  micro_yen bigint NOT NULL DEFAULT 0,
  usage_source text NOT NULL DEFAULT 'none',
  opened_at timestamptz NOT NULL,
  first_byte_at timestamptz,
  settled_at timestamptz,
  CHECK ((state IN ('settled', 'recovered', 'voided')) = (settled_at IS NOT NULL AND outcome IS NOT NULL)),
  CHECK (cached_tokens <= prompt_tokens AND reasoning_tokens <= completion_tokens)
) PARTITION BY RANGE (request_id)""",
    # Partial, so that nothing but usage is ever looked up by it.
    "CREATE INDEX journal_usage ON journal (tenant_id, settled_at) WHERE settled_at IS NOT NULL",
    "CREATE INDEX journal_unfinished ON journal (instance_id) WHERE state IN ('open', 'dispatched', 'streaming')",
    """
CREATE TABLE journal_progress (
  request_id uuid PRIMARY KEY,
  attempt smallint NOT NULL,
  prompt_tokens bigint NOT NULL,
  cached_tokens bigint NOT NULL,
  completion_tokens bigint NOT NULL,
  reasoning_tokens bigint NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70)""",
    # Double entry: each price line debits the tenant's receivable and credits the model's revenue by the same amount.
    """
CREATE TABLE ledger_entry (
  request_id uuid NOT NULL,
  line smallint NOT NULL,
  account text NOT NULL,
  tenant_id text NOT NULL,
  kind text NOT NULL,
  quantity bigint NOT NULL CHECK (quantity > 0),
  unit_price bigint NOT NULL,
  debit bigint NOT NULL DEFAULT 0 CHECK (debit >= 0),
  credit bigint NOT NULL DEFAULT 0 CHECK (credit >= 0),
  booked_at timestamptz NOT NULL,
  PRIMARY KEY (request_id, line, account),
  CHECK (debit = 0 OR credit = 0)
)""",
    """
CREATE TABLE audit_pending (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id text NOT NULL,
  request_id uuid,
  record text NOT NULL CHECK (octet_length(record) <= 600),
  created_at timestamptz NOT NULL DEFAULT now()
)""",
    """
CREATE TABLE refusal_count (
  bucket timestamptz NOT NULL,
  tenant_id text NOT NULL,
  code text NOT NULL,
  origin text NOT NULL,
  n bigint NOT NULL,
  PRIMARY KEY (bucket, tenant_id, code, origin)
)""",
    """
CREATE TABLE settle_dead (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  request_id uuid NOT NULL,
  settlement jsonb NOT NULL,
  error text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
)""",
)

_FUNCTIONS = (
    """
CREATE FUNCTION from_micros(us bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT timestamptz 'epoch' + us * interval '1 microsecond' $$""",
    # UUIDv7 (RFC 9562 §5.7) begins with 48 bits of milliseconds, so a month is a range of ids.
    """
CREATE FUNCTION uuid7_floor(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$""",
    """
CREATE FUNCTION journal_ensure_partitions(first timestamptz, months integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  month timestamptz;
BEGIN
  FOR n IN 0 .. months - 1 LOOP
    month := date_trunc('month', first AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + make_interval(months => n);
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF journal FOR VALUES FROM (%L) TO (%L)',
      'journal_' || to_char(month AT TIME ZONE 'UTC', 'YYYYMM'),
      uuid7_floor(month), uuid7_floor((month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'));
  END LOOP;
END $$""",
    "SELECT journal_ensure_partitions(now() - interval '1 month', 4)",
    """
CREATE FUNCTION raise_epoch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$ BEGIN UPDATE config_epoch SET epoch = epoch + 1; RETURN NULL; END $$""",
    """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$""",
    """
CREATE FUNCTION journal_forward_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state IN ('settled', 'recovered', 'voided') THEN
    RAISE EXCEPTION 'journal row % is frozen (%)', OLD.request_id, OLD.state USING ERRCODE = 'restrict_violation';
  END IF;
  IF array_position(ARRAY['open', 'dispatched', 'streaming', 'settled', 'recovered', 'voided'], NEW.state)
     < array_position(ARRAY['open', 'dispatched', 'streaming', 'settled', 'recovered', 'voided'], OLD.state) THEN
    RAISE EXCEPTION 'journal row % cannot go from % to %', OLD.request_id, OLD.state, NEW.state
      USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.request_id <> OLD.request_id OR NEW.tenant_id <> OLD.tenant_id THEN
    RAISE EXCEPTION 'journal row % cannot change its owner', OLD.request_id USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$""",
)

_CONFIG_TABLES = ("tenant", "api_key", "licence", "upstream", "rate_card")

_TRIGGERS = (
    *(
        f"CREATE TRIGGER {table}_epoch AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION raise_epoch()"
        for table in _CONFIG_TABLES
    ),
    "CREATE TRIGGER journal_forward BEFORE UPDATE ON journal FOR EACH ROW EXECUTE FUNCTION journal_forward_only()",
    "CREATE TRIGGER journal_keep BEFORE DELETE ON journal FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER ledger_keep BEFORE UPDATE OR DELETE ON ledger_entry FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER audit_keep BEFORE UPDATE ON audit_pending FOR EACH ROW EXECUTE FUNCTION refuse_change()",
)

_GRANTS = (
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO sekisho_app, sekisho_auditor",
    f"GRANT INSERT, UPDATE ON {', '.join(_CONFIG_TABLES)} TO sekisho_app",
    "GRANT INSERT, UPDATE ON journal TO sekisho_app",
    "GRANT INSERT, UPDATE, DELETE ON journal_progress, instance, refusal_count TO sekisho_app",
    "GRANT INSERT ON ledger_entry, audit_pending, settle_dead TO sekisho_app",
    "GRANT EXECUTE ON FUNCTION journal_ensure_partitions(timestamptz, integer) TO sekisho_app",
)


def upgrade() -> None:
    for statement in (_ROLES, *_TABLES, *_FUNCTIONS, *_TRIGGERS, *_GRANTS):
        op.execute(statement)


def downgrade() -> None:
    # The roles stay: they belong to the cluster, and another database may use them.
    for table in (
        "settle_dead", "refusal_count", "audit_pending", "ledger_entry", "journal_progress", "journal", "instance",
        "config_epoch", "rate_card", "upstream", "licence", "api_key", "tenant",
    ):  # fmt: skip
        op.execute(f"DROP TABLE {table} CASCADE")
    for function in (
        "journal_forward_only()", "refuse_change()", "raise_epoch()",
        "journal_ensure_partitions(timestamptz, integer)", "uuid7_floor(timestamptz)", "from_micros(bigint)",
    ):  # fmt: skip
        op.execute(f"DROP FUNCTION {function}")
