"""Contributions, the lineage of model versions, and signed priority policies: what priority follows from."""

from alembic import op

revision = "0007"
down_revision = "0006"

_TABLES = (
    # What somebody has contributed is a fact: only its withdrawal can be added.
    """
CREATE TABLE contribution (
  contribution_id text PRIMARY KEY CHECK (contribution_id ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$'),
  contributor text NOT NULL,
  hojin_bangou text NOT NULL CHECK (hojin_bangou ~ '^[0-9]{13}$'),
  industry text NOT NULL,
  data_contract text NOT NULL,
  data_class text NOT NULL CHECK (data_class IN ('public', 'restricted', 'secret')),
  contributed_at timestamptz NOT NULL,
  withdrawn_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  changed_epoch bigint NOT NULL DEFAULT 0
)""",
    """
CREATE TABLE model_lineage (
  model text NOT NULL CHECK (model ~ '^[A-Za-z0-9._:/-]{1,64}$'),
  model_version text NOT NULL CHECK (model_version ~ '^[0-9]+(\\.[0-9]+){0,3}$'),
  origin text NOT NULL CHECK (origin IN ('national_base', 'derived')),
  base_model text NOT NULL DEFAULT '',
  contributions text[] NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  changed_epoch bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (model, model_version)
)""",
    # The envelope is the policy; `document` is its payload once more, for queries.
    """
CREATE TABLE priority_policy (
  version integer PRIMARY KEY CHECK (version > 0),
  effective_from timestamptz NOT NULL,
  document jsonb NOT NULL,
  envelope text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  changed_epoch bigint NOT NULL DEFAULT 0
)""",
)
_NEW_TABLES = ("contribution", "model_lineage", "priority_policy")

_FUNCTIONS = (
    """
CREATE FUNCTION fixed_but_withdrawal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF to_jsonb(OLD) - 'withdrawn_at' - 'changed_epoch' <> to_jsonb(NEW) - 'withdrawn_at' - 'changed_epoch'
    OR OLD.withdrawn_at IS NOT NULL THEN
    RAISE EXCEPTION 'a contribution never changes' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$""",
    (
        "CREATE TRIGGER contribution_fixed BEFORE UPDATE ON contribution FOR EACH ROW"
        " EXECUTE FUNCTION fixed_but_withdrawal()"
    ),
    (
        "CREATE TRIGGER priority_policy_keep BEFORE UPDATE OR DELETE ON priority_policy FOR EACH ROW"
        " EXECUTE FUNCTION refuse_change()"
    ),
    *(
        statement
        for table in _NEW_TABLES
        for statement in (
            f"CREATE INDEX {table}_changed ON {table} (changed_epoch)",
            (
                f"CREATE TRIGGER {table}_epoch BEFORE INSERT OR UPDATE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION stamp_epoch()"
            ),
            (
                f"CREATE TRIGGER {table}_gone AFTER DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION raise_generation()"
            ),
        )
    ),
)

_GRANTS = (
    f"GRANT SELECT ON {', '.join(_NEW_TABLES)} TO sekisho_app, sekisho_auditor",
    "GRANT INSERT, UPDATE ON contribution, model_lineage TO sekisho_app",
    "GRANT INSERT ON priority_policy TO sekisho_app",
)


def upgrade() -> None:
    for statement in (*_TABLES, *_FUNCTIONS, *_GRANTS):
        op.execute(statement)


def downgrade() -> None:
    # A signed policy that is in force, or about to be, is no setting to lose on the way.
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM priority_policy) THEN"
        " RAISE EXCEPTION 'signed priority policies are in the way'; END IF; END $$"
    )
    op.execute("DROP TABLE priority_policy, model_lineage, contribution")
    op.execute("DROP FUNCTION fixed_but_withdrawal()")
