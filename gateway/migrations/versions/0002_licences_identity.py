"""Signed licences and their keys, projects, OAuth clients, issuers, administrators; upstreams with their supply chain.

Every configuration row carries the epoch of its last change, so that gateways read only what changed.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

# What every credential says of the requests it may make; NULL in an array or a limit means: not restricted here.
_ACCESS = """
  tenant_id text NOT NULL REFERENCES tenant,
  project_id text,
  label text NOT NULL DEFAULT '',
  scopes text[],
  models text[],
  purposes text[],
  cidrs text[],
  purpose text NOT NULL DEFAULT 'general',
  data_class text NOT NULL DEFAULT 'restricted' CHECK (data_class IN ('public', 'restricted', 'secret')),
  tokens_month bigint CHECK (tokens_month BETWEEN 0 AND 9007199254740991),
  micro_yen_month bigint CHECK (micro_yen_month BETWEEN 0 AND 9007199254740991),
  rpm integer CHECK (rpm >= 0),
  concurrency integer CHECK (concurrency >= 0),
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  FOREIGN KEY (tenant_id, project_id) REFERENCES project (tenant_id, project_id)
"""

_TABLES = (
    """
ALTER TABLE tenant
  ADD COLUMN hojin_bangou text NOT NULL DEFAULT '',
  ADD COLUMN sites text[] NOT NULL DEFAULT '{}'""",
    """
CREATE TABLE project (
  tenant_id text NOT NULL REFERENCES tenant,
  project_id text NOT NULL CHECK (project_id ~ '^[a-z0-9][a-z0-9_-]{0,39}$'),
  name text NOT NULL DEFAULT '',
  tokens_month bigint CHECK (tokens_month BETWEEN 0 AND 9007199254740991),
  micro_yen_month bigint CHECK (micro_yen_month BETWEEN 0 AND 9007199254740991),
  rpm integer CHECK (rpm >= 0),
  concurrency integer CHECK (concurrency >= 0),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, project_id)
)""",
    """
ALTER TABLE api_key
  ADD COLUMN project_id text,
  ADD COLUMN scopes text[],
  ADD COLUMN models text[],
  ADD COLUMN purposes text[],
  ADD COLUMN cidrs text[],
  ADD COLUMN tokens_month bigint CHECK (tokens_month BETWEEN 0 AND 9007199254740991),
  ADD COLUMN micro_yen_month bigint CHECK (micro_yen_month BETWEEN 0 AND 9007199254740991),
  ADD COLUMN rpm integer CHECK (rpm >= 0),
  ADD COLUMN concurrency integer CHECK (concurrency >= 0),
  ADD COLUMN replaces text REFERENCES api_key,
  ADD FOREIGN KEY (tenant_id, project_id) REFERENCES project (tenant_id, project_id)""",
    # A client of the token endpoint (RFC 7523); `binding` says what its tokens must be bound to.
    f"""
CREATE TABLE oauth_client (
  client_id text PRIMARY KEY CHECK (client_id ~ '^oc_[0-9A-Za-z]{{12}}$'),
  jwks jsonb NOT NULL,
  binding text NOT NULL DEFAULT 'none' CHECK (binding IN ('none', 'dpop', 'mtls')),
  {_ACCESS}
)""",
    # A tenant's own OpenID issuer: its access tokens for our audience speak for the tenant.
    f"""
CREATE TABLE oidc_issuer (
  issuer_id text PRIMARY KEY CHECK (issuer_id ~ '^oi_[0-9A-Za-z]{{12}}$'),
  issuer text NOT NULL UNIQUE,
  audience text NOT NULL,
  binding text NOT NULL DEFAULT 'none' CHECK (binding IN ('none', 'dpop', 'mtls')),
  {_ACCESS}
)""",
    """
CREATE TABLE admin_key (
  key_id text PRIMARY KEY CHECK (key_id ~ '^[0-9A-Za-z]{12}$'),
  role text NOT NULL CHECK (role IN ('platform_admin', 'si_engineer', 'approver', 'billing', 'auditor')),
  tenants text[] NOT NULL DEFAULT '{}',
  mac bytea NOT NULL CHECK (octet_length(mac) = 32),
  pepper_id text NOT NULL,
  label text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz
)""",
    # Public keys that may sign licences. `party` is the issuer's name, or for a licensee its tenant.
    """
CREATE TABLE trust_key (
  key_id text PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{64}$'),
  role text NOT NULL CHECK (role IN ('issuer', 'licensee')),
  party text NOT NULL,
  public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
  not_before timestamptz NOT NULL,
  not_after timestamptz,
  revoked_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
)""",
    # The envelope is the licence; `document` is its payload once more, for queries. Rows without one grant nothing.
    """
ALTER TABLE licence
  ADD COLUMN envelope text,
  ADD COLUMN parent_licence_id text,
  ADD COLUMN revoke_reason text NOT NULL DEFAULT '',
  DROP COLUMN signed""",
    """
ALTER TABLE upstream
  ADD COLUMN model_version text NOT NULL DEFAULT '1.0.0' CHECK (model_version ~ '^[0-9]+(\\.[0-9]+){0,3}$'),
  ADD COLUMN operator text NOT NULL DEFAULT '',
  ADD COLUMN country text NOT NULL DEFAULT 'JP' CHECK (country ~ '^[A-Z]{2}$'),
  ADD COLUMN accelerator text NOT NULL DEFAULT '',
  ADD COLUMN supply_chain jsonb NOT NULL DEFAULT '{}',
  ADD COLUMN retired_at timestamptz""",
    # Not configuration: written in the background, every few seconds.
    "CREATE TABLE credential_use (credential_id text PRIMARY KEY, last_used_at timestamptz NOT NULL)",
    # The highest time that any process has stored: a clock behind it cannot be trusted with a licence's end.
    "CREATE TABLE clock_mark (one boolean PRIMARY KEY DEFAULT true CHECK (one), highest_at timestamptz NOT NULL)",
    "INSERT INTO clock_mark (highest_at) VALUES (now())",
    """
ALTER TABLE journal
  ADD COLUMN project_id text NOT NULL DEFAULT '',
  ADD COLUMN model_version text NOT NULL DEFAULT '',
  ADD COLUMN country text NOT NULL DEFAULT ''""",
    # Three logs (domain rules); an administrator's act carries what it changed and is longer than an exchange.
    """
ALTER TABLE audit_pending
  ADD COLUMN log text NOT NULL DEFAULT 'requests' CHECK (log IN ('requests', 'administration', 'tax')),
  DROP CONSTRAINT audit_pending_record_check,
  ADD CONSTRAINT audit_pending_record_check
    CHECK (octet_length(record) <= CASE log WHEN 'requests' THEN 600 ELSE 65536 END)""",
    "CREATE INDEX audit_pending_administration ON audit_pending (tenant_id, id) WHERE log = 'administration'",
)

_CLOCK = (
    """
CREATE FUNCTION clock_forward_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.highest_at < OLD.highest_at AND current_user IN ('sekisho_app', 'sekisho_auditor') THEN
    RAISE EXCEPTION 'the highest stored time cannot go back' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$""",
    "CREATE TRIGGER clock_forward BEFORE UPDATE ON clock_mark FOR EACH ROW EXECUTE FUNCTION clock_forward_only()",
)

CONFIG_TABLES = (
    "tenant", "project", "api_key", "oauth_client", "oidc_issuer", "admin_key", "trust_key", "licence", "upstream",
    "rate_card",
)  # fmt: skip
_NEW_TABLES = ("project", "oauth_client", "oidc_issuer", "admin_key", "trust_key")

_EPOCH = (
    "ALTER TABLE config_epoch ADD COLUMN generation bigint NOT NULL DEFAULT 1",
    # The lock on the one row is held to the end of the transaction: epochs become visible in their order, and a reader
    # that has seen epoch n has seen everything up to n.
    """
CREATE FUNCTION stamp_epoch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE config_epoch SET epoch = epoch + 1 RETURNING epoch INTO NEW.changed_epoch;
  PERFORM pg_notify('sekisho_config', '');
  RETURN NEW;
END $$""",
    # A row that is gone cannot be found by its epoch: everything is read anew.
    """
CREATE FUNCTION raise_generation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$ BEGIN
  UPDATE config_epoch SET epoch = epoch + 1, generation = generation + 1;
  PERFORM pg_notify('sekisho_config', '');
  RETURN NULL;
END $$""",
    *(
        statement
        for table in CONFIG_TABLES
        for statement in (
            f"ALTER TABLE {table} ADD COLUMN changed_epoch bigint NOT NULL DEFAULT 0",
            f"CREATE INDEX {table}_changed ON {table} (changed_epoch)",
            f"DROP TRIGGER IF EXISTS {table}_epoch ON {table}",
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
    f"GRANT SELECT ON {', '.join(_NEW_TABLES)}, credential_use, clock_mark TO sekisho_app, sekisho_auditor",
    f"GRANT INSERT, UPDATE ON {', '.join(_NEW_TABLES)}, credential_use TO sekisho_app",
    "GRANT UPDATE ON clock_mark TO sekisho_app",
)

_OLD_CONFIG_TABLES = ("tenant", "api_key", "licence", "upstream", "rate_card")


def upgrade() -> None:
    for statement in (*_TABLES, *_CLOCK, *_EPOCH, *_GRANTS):
        op.execute(statement)


def downgrade() -> None:
    for table in CONFIG_TABLES:
        op.execute(f"DROP TRIGGER {table}_epoch ON {table}")
        op.execute(f"DROP TRIGGER {table}_gone ON {table}")
        op.execute(f"ALTER TABLE {table} DROP COLUMN changed_epoch")
    for function in ("stamp_epoch()", "raise_generation()"):
        op.execute(f"DROP FUNCTION {function}")
    for table in _OLD_CONFIG_TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_epoch AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION raise_epoch()"
        )
    for statement in (
        "ALTER TABLE config_epoch DROP COLUMN generation",
        "DROP INDEX audit_pending_administration",
        # The older form has no place for an administrator's record, and losing one is worse than not going back.
        (
            "ALTER TABLE audit_pending DROP CONSTRAINT audit_pending_record_check, DROP COLUMN log,"
            " ADD CONSTRAINT audit_pending_record_check CHECK (octet_length(record) <= 600)"
        ),
        "ALTER TABLE journal DROP COLUMN project_id, DROP COLUMN model_version, DROP COLUMN country",
        "DROP TABLE credential_use, clock_mark",
        "DROP FUNCTION clock_forward_only()",
        (
            "ALTER TABLE upstream DROP COLUMN model_version, DROP COLUMN operator, DROP COLUMN country,"
            " DROP COLUMN accelerator, DROP COLUMN supply_chain, DROP COLUMN retired_at"
        ),
        (
            "ALTER TABLE licence DROP COLUMN envelope, DROP COLUMN parent_licence_id, DROP COLUMN revoke_reason,"
            " ADD COLUMN signed boolean NOT NULL DEFAULT false"
        ),
        "DROP TABLE trust_key, admin_key, oidc_issuer, oauth_client",
        (
            "ALTER TABLE api_key DROP COLUMN project_id, DROP COLUMN scopes, DROP COLUMN models, DROP COLUMN purposes,"
            " DROP COLUMN cidrs, DROP COLUMN tokens_month, DROP COLUMN micro_yen_month, DROP COLUMN rpm,"
            " DROP COLUMN concurrency, DROP COLUMN replaces"
        ),
        "DROP TABLE project",
        "ALTER TABLE tenant DROP COLUMN hojin_bangou, DROP COLUMN sites",
    ):
        op.execute(statement)
