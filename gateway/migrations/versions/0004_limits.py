"""Tokens per minute, temporary raises of limits, and limits kept by the book while Valkey is away."""

from alembic import op

revision = "0004"
down_revision = "0003"

_LIMITED = ("tenant", "project", "api_key", "oauth_client", "oidc_issuer")

_TPM = tuple(
    f"ALTER TABLE {table} ADD COLUMN tpm bigint CHECK (tpm BETWEEN 0 AND 9007199254740991)" for table in _LIMITED
)

_RAISES = (
    # `level` as gateway/limits/levels.py names it within the tenant; 'tenant' is the tenant's own.
    """
CREATE TABLE limit_raise (
  raise_id text PRIMARY KEY CHECK (raise_id ~ '^lr_[0-9A-Za-z]{12}$'),
  tenant_id text NOT NULL REFERENCES tenant,
  level text NOT NULL CHECK (level = 'tenant' OR level ~ '^(licence|project|key):[^[:space:]]{1,100}$'),
  limit_name text NOT NULL
    CHECK (limit_name IN ('tokens_month', 'micro_yen_month', 'rpm', 'tpm', 'concurrency')),
  value bigint NOT NULL CHECK (value BETWEEN 0 AND 9007199254740991),
  starts_at timestamptz NOT NULL,
  ends_at timestamptz NOT NULL,
  reason text NOT NULL CHECK (reason <> ''),
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz,
  changed_epoch bigint NOT NULL DEFAULT 0,
  CHECK (ends_at > starts_at)
)""",
    "CREATE INDEX limit_raise_changed ON limit_raise (changed_epoch)",
    (
        "CREATE TRIGGER limit_raise_epoch BEFORE INSERT OR UPDATE ON limit_raise"
        " FOR EACH ROW EXECUTE FUNCTION stamp_epoch()"
    ),
    (
        "CREATE TRIGGER limit_raise_gone AFTER DELETE OR TRUNCATE ON limit_raise"
        " FOR EACH STATEMENT EXECUTE FUNCTION raise_generation()"
    ),
)

# docs/decisions/0014-limits-without-valkey.md tells what these are for and why they suffice.
_BOOK = (
    """
CREATE TABLE limits_mode (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  mode text NOT NULL CHECK (mode IN ('valkey', 'book')),
  generation bigint NOT NULL,
  name text NOT NULL,
  run text NOT NULL,
  changed_at timestamptz NOT NULL
)""",
    "INSERT INTO limits_mode (mode, generation, name, run, changed_at) VALUES ('valkey', 1, '', '', now())",
    """
CREATE TABLE limits_member (
  member_id text PRIMARY KEY,
  generation bigint NOT NULL,
  valkey boolean NOT NULL,
  seen_at timestamptz NOT NULL
)""",
    # The row of a tenant is the lock of all that the book keeps of it.
    "CREATE TABLE limit_book (tenant_id text PRIMARY KEY, generation bigint NOT NULL)",
    "CREATE TABLE limit_month (tenant_id text, period text, PRIMARY KEY (tenant_id, period))",
    """
CREATE TABLE limit_use (
  tenant_id text,
  period text,
  level text,
  used_tokens bigint NOT NULL,
  held_tokens bigint NOT NULL CHECK (held_tokens >= 0),
  used_micro_yen bigint NOT NULL,
  held_micro_yen bigint NOT NULL CHECK (held_micro_yen >= 0),
  PRIMARY KEY (tenant_id, period, level)
) WITH (fillfactor = 70)""",
    """
CREATE TABLE limit_now (
  tenant_id text,
  level text,
  running bigint NOT NULL CHECK (running >= 0),
  minute bigint NOT NULL,
  requests bigint NOT NULL,
  tokens bigint NOT NULL,
  PRIMARY KEY (tenant_id, level)
) WITH (fillfactor = 70)""",
    """
CREATE TABLE limit_hold (
  tenant_id text,
  request_id text,
  period text NOT NULL,
  tokens bigint NOT NULL,
  micro_yen bigint NOT NULL,
  instance_id text NOT NULL,
  held_at bigint NOT NULL,
  levels text[] NOT NULL,
  PRIMARY KEY (tenant_id, request_id)
)""",
)

_FUNCTIONS = (
    # Locks what the book keeps of a tenant and, when it does not know the month, reads it from the journal: the sums of
    # every level and the holds of what still runs, in one statement and therefore of one moment. Rows are found as in
    # `gateway.limits.month`. False: the book of that generation is not in force.
    """
CREATE FUNCTION limits_open(g bigint, t text, p text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  known bigint;
  this_minute bigint;
  minute_begins timestamptz;
BEGIN
  INSERT INTO limit_book (tenant_id, generation) VALUES (t, 0) ON CONFLICT DO NOTHING;
  SELECT generation INTO known FROM limit_book WHERE tenant_id = t FOR UPDATE;
  IF known > g OR NOT EXISTS (SELECT FROM limits_mode WHERE mode = 'book' AND generation = g) THEN
    RETURN false;
  END IF;
  IF known < g THEN
    DELETE FROM limit_month WHERE tenant_id = t;
    DELETE FROM limit_use WHERE tenant_id = t;
    DELETE FROM limit_now WHERE tenant_id = t;
    DELETE FROM limit_hold WHERE tenant_id = t;
    UPDATE limit_book SET generation = g WHERE tenant_id = t;
  END IF;
  IF p = '' OR EXISTS (SELECT FROM limit_month WHERE tenant_id = t AND period = p) THEN
    RETURN true;
  END IF;
  INSERT INTO limit_month (tenant_id, period) VALUES (t, p);
  this_minute := extract(epoch FROM clock_timestamp())::bigint / 60;
  minute_begins := to_timestamp(this_minute * 60);
  WITH rows AS MATERIALIZED (
    SELECT NULL AS request_id, '' AS instance_id, 0 AS held_at, j.rule_id, j.project_id, j.key_id,
      sum(j.prompt_tokens + j.completion_tokens) AS used_tokens, sum(j.micro_yen) AS used_micro_yen, 0 AS held_tokens,
      0 AS held_micro_yen, 0 AS running, count(*) FILTER (WHERE j.opened_at >= minute_begins) AS requests,
      coalesce(sum(j.prompt_tokens + j.completion_tokens) FILTER (WHERE j.opened_at >= minute_begins), 0) AS tokens
    FROM journal j
    WHERE j.tenant_id = t AND j.period = p AND j.booked_at >= to_date(p, 'YYYYMM') - interval '2 days'
    GROUP BY j.rule_id, j.project_id, j.key_id
    UNION ALL
    SELECT j.request_id::text, j.instance_id, floor(extract(epoch FROM j.opened_at))::bigint, j.rule_id, j.project_id,
      j.key_id, 0, 0, j.held_tokens, j.held_micro_yen, 1, (j.opened_at >= minute_begins)::int,
      CASE WHEN j.opened_at >= minute_begins THEN j.held_tokens ELSE 0 END
    FROM journal j WHERE j.tenant_id = t AND j.period = p AND j.state IN ('open', 'dispatched', 'streaming')
  ), of_levels AS MATERIALIZED (
    SELECT r.*, array_remove(
      ARRAY['', 'licence:' || r.rule_id, 'project:' || nullif(r.project_id, ''), 'key:' || r.key_id], NULL) AS levels
    FROM rows r
  ), held AS (
    INSERT INTO limit_hold (tenant_id, request_id, period, tokens, micro_yen, instance_id, held_at, levels)
    SELECT t, request_id, p, held_tokens, held_micro_yen, instance_id, held_at, levels FROM of_levels WHERE running = 1
  ), used AS (
    INSERT INTO limit_use (tenant_id, period, level, used_tokens, held_tokens, used_micro_yen, held_micro_yen)
    SELECT t, p, level, sum(used_tokens), sum(held_tokens), sum(used_micro_yen), sum(held_micro_yen)
    FROM of_levels CROSS JOIN LATERAL unnest(levels) AS level GROUP BY level
  )
  INSERT INTO limit_now AS n (tenant_id, level, running, minute, requests, tokens)
  SELECT t, level, sum(running), this_minute, sum(requests), sum(tokens)
  FROM of_levels CROSS JOIN LATERAL unnest(levels) AS level
  GROUP BY level HAVING sum(running) > 0 OR sum(requests) > 0
  ON CONFLICT (tenant_id, level) DO UPDATE SET running = n.running + excluded.running, minute = this_minute,
    requests = excluded.requests + CASE WHEN n.minute = this_minute THEN n.requests ELSE 0 END,
    tokens = excluded.tokens + CASE WHEN n.minute = this_minute THEN n.tokens ELSE 0 END;
  RETURN true;
END $$""",
    # As `reserve.lua`: the same checks in the same order, and the same answer as a JSON array.
    """
CREATE FUNCTION limits_reserve(g bigint, ask jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  t text := ask->>'tenant_id';
  p text := ask->>'period';
  asked_tokens bigint := ask->>'tokens';
  asked_micro_yen bigint := ask->>'micro_yen';
  names text[] := ARRAY(SELECT jsonb_array_elements_text(ask->'levels'));
  now_s bigint := floor(extract(epoch FROM clock_timestamp()));
  refused text := 'held';
  refusing int := 0;
BEGIN
  IF NOT limits_open(g, t, p) THEN
    RETURN '["moved"]';
  END IF;
  IF NOT EXISTS (SELECT FROM limit_hold WHERE tenant_id = t AND request_id = ask->>'request_id') THEN
    SELECT c.verdict, b.number INTO refused, refusing
    FROM jsonb_to_recordset(ask->'bounds') AS b(number int, level text, tokens_month bigint, micro_yen_month bigint,
      rpm bigint, concurrency bigint, tpm bigint)
    LEFT JOIN limit_use u ON u.tenant_id = t AND u.period = p AND u.level = b.level
    LEFT JOIN limit_now n ON n.tenant_id = t AND n.level = b.level
    CROSS JOIN LATERAL (VALUES
      (1, 'tokens_month', asked_tokens, b.tokens_month, u.used_tokens + u.held_tokens),
      (2, 'micro_yen_month', asked_micro_yen, b.micro_yen_month, u.used_micro_yen + u.held_micro_yen),
      (3, 'tpm_alone', asked_tokens, b.tpm, 0),
      (4, 'concurrency', 1, b.concurrency, n.running),
      (5, 'rpm', 1, b.rpm, CASE WHEN n.minute = now_s / 60 THEN n.requests END),
      (6, 'tpm', asked_tokens, b.tpm, CASE WHEN n.minute = now_s / 60 THEN n.tokens END)
    ) AS c(place, verdict, asked, bound, taken)
    WHERE coalesce(c.taken, 0) + c.asked > c.bound
    ORDER BY c.place, b.number DESC LIMIT 1;
    IF refused IS NULL THEN
      refused := 'held';
      refusing := 0;
      INSERT INTO limit_hold (tenant_id, request_id, period, tokens, micro_yen, instance_id, held_at, levels)
      VALUES (t, ask->>'request_id', p, asked_tokens, asked_micro_yen, ask->>'instance_id', now_s, names);
      INSERT INTO limit_use AS u (tenant_id, period, level, used_tokens, held_tokens, used_micro_yen, held_micro_yen)
      SELECT t, p, level, 0, asked_tokens, 0, asked_micro_yen FROM unnest(names) AS level
      ON CONFLICT (tenant_id, period, level) DO UPDATE SET held_tokens = u.held_tokens + asked_tokens,
        held_micro_yen = u.held_micro_yen + asked_micro_yen;
      INSERT INTO limit_now AS n (tenant_id, level, running, minute, requests, tokens)
      SELECT t, level, 1, now_s / 60, 1, asked_tokens FROM unnest(names) AS level
      ON CONFLICT (tenant_id, level) DO UPDATE SET running = n.running + 1, minute = excluded.minute,
        requests = 1 + CASE WHEN n.minute = excluded.minute THEN n.requests ELSE 0 END,
        tokens = asked_tokens + CASE WHEN n.minute = excluded.minute THEN n.tokens ELSE 0 END;
    END IF;
  END IF;
  RETURN jsonb_build_array(refused, refusing, now_s) || coalesce((
    SELECT jsonb_agg(f.figure ORDER BY b.number, f.place)
    FROM jsonb_to_recordset(ask->'bounds') AS b(number int, level text)
    LEFT JOIN limit_use u ON u.tenant_id = t AND u.period = p AND u.level = b.level
    LEFT JOIN limit_now n ON n.tenant_id = t AND n.level = b.level
    CROSS JOIN LATERAL (VALUES
      (1, coalesce(u.used_tokens + u.held_tokens, 0)), (2, coalesce(u.used_micro_yen + u.held_micro_yen, 0)),
      (3, CASE WHEN n.minute = now_s / 60 THEN n.requests ELSE 0 END),
      (4, CASE WHEN n.minute = now_s / 60 THEN n.tokens ELSE 0 END)
    ) AS f(place, figure)), '[]');
END $$""",
    # Many at once, in the order of their tenants: so no two batches wait for each other.
    """
CREATE FUNCTION limits_reserve_all(g bigint, asks jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  answers jsonb := '{}';
  one record;
BEGIN
  FOR one IN SELECT a.ask, a.n FROM jsonb_array_elements(asks) WITH ORDINALITY AS a(ask, n)
             ORDER BY a.ask->>'tenant_id', a.n LOOP
    answers := answers || jsonb_build_object(one.n - 1, limits_reserve(g, one.ask));
  END LOOP;
  RETURN answers;
END $$""",
    # As `settle.lua` (`final`) and `shrink.lua`: without the hold nothing changes.
    """
CREATE FUNCTION limits_change(g bigint, change jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  t text := change->>'tenant_id';
  final boolean := change->>'final';
  to_tokens bigint := change->>'tokens';
  to_micro_yen bigint := change->>'micro_yen';
  hold limit_hold;
BEGIN
  IF NOT limits_open(g, t, '') THEN
    RETURN;
  END IF;
  SELECT * INTO hold FROM limit_hold WHERE tenant_id = t AND request_id = change->>'request_id';
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF final THEN
    DELETE FROM limit_hold WHERE tenant_id = t AND request_id = hold.request_id;
    UPDATE limit_use u SET used_tokens = u.used_tokens + to_tokens, held_tokens = u.held_tokens - hold.tokens,
      used_micro_yen = u.used_micro_yen + to_micro_yen, held_micro_yen = u.held_micro_yen - hold.micro_yen
    WHERE u.tenant_id = t AND u.period = hold.period AND u.level = ANY (hold.levels);
  ELSE
    to_tokens := least(to_tokens, hold.tokens);
    to_micro_yen := least(to_micro_yen, hold.micro_yen);
    UPDATE limit_hold SET tokens = to_tokens, micro_yen = to_micro_yen
    WHERE tenant_id = t AND request_id = hold.request_id;
    UPDATE limit_use u SET held_tokens = u.held_tokens - hold.tokens + to_tokens,
      held_micro_yen = u.held_micro_yen - hold.micro_yen + to_micro_yen
    WHERE u.tenant_id = t AND u.period = hold.period AND u.level = ANY (hold.levels);
  END IF;
  UPDATE limit_now n SET running = n.running - final::int,
    tokens = CASE WHEN n.minute = hold.held_at / 60
      AND n.minute = floor(extract(epoch FROM clock_timestamp()))::bigint / 60
      THEN n.tokens + to_tokens - hold.tokens ELSE n.tokens END
  WHERE n.tenant_id = t AND n.level = ANY (hold.levels);
END $$""",
    """
CREATE FUNCTION limits_change_all(g bigint, changes jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT c.change FROM jsonb_array_elements(changes) WITH ORDINALITY AS c(change, n)
             ORDER BY c.change->>'tenant_id', c.n LOOP
    PERFORM limits_change(g, one.change);
  END LOOP;
END $$""",
    # As `look.lua`: time, then per level used and held tokens, used and held micro-yen, running, and the minute's
    # requests and tokens.
    """
CREATE FUNCTION limits_look(g bigint, t text, p text, names text[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
  now_s bigint := floor(extract(epoch FROM clock_timestamp()));
BEGIN
  IF NOT limits_open(g, t, p) THEN
    RETURN NULL;
  END IF;
  RETURN now_s || ARRAY(
    SELECT f.figure FROM unnest(names) WITH ORDINALITY AS l(level, number)
    LEFT JOIN limit_use u ON u.tenant_id = t AND u.period = p AND u.level = l.level
    LEFT JOIN limit_now n ON n.tenant_id = t AND n.level = l.level
    CROSS JOIN LATERAL (VALUES
      (1, coalesce(u.used_tokens, 0)), (2, coalesce(u.held_tokens, 0)), (3, coalesce(u.used_micro_yen, 0)),
      (4, coalesce(u.held_micro_yen, 0)), (5, coalesce(n.running, 0)),
      (6, CASE WHEN n.minute = now_s / 60 THEN n.requests ELSE 0 END),
      (7, CASE WHEN n.minute = now_s / 60 THEN n.tokens ELSE 0 END)
    ) AS f(place, figure) ORDER BY l.number, f.place);
END $$""",
)

_TABLES = ("limit_book", "limit_month", "limit_use", "limit_now", "limit_hold", "limits_member")

_GRANTS = (
    f"GRANT SELECT ON limit_raise, limits_mode, {', '.join(_TABLES)} TO sekisho_app, sekisho_auditor",
    "GRANT INSERT, UPDATE ON limit_raise TO sekisho_app",
    "GRANT UPDATE ON limits_mode TO sekisho_app",
    f"GRANT INSERT, UPDATE, DELETE ON {', '.join(_TABLES)} TO sekisho_app",
)


def upgrade() -> None:
    for statement in (*_TPM, *_RAISES, *_BOOK, *_FUNCTIONS, *_GRANTS):
        op.execute(statement)


def downgrade() -> None:
    for statement in (
        *(
            f"DROP FUNCTION {function}"
            for function in (
                "limits_look(bigint, text, text, text[])",
                "limits_change_all(bigint, jsonb)",
                "limits_change(bigint, jsonb)",
                "limits_reserve_all(bigint, jsonb)",
                "limits_reserve(bigint, jsonb)",
                "limits_open(bigint, text, text)",
            )
        ),
        f"DROP TABLE limits_mode, {', '.join(_TABLES)}, limit_raise",
        *(f"ALTER TABLE {table} DROP COLUMN tpm" for table in _LIMITED),
    ):
        op.execute(statement)
