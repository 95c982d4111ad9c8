"""Idempotency keys with their kept answers; webhook endpoints, events and deliveries."""

from alembic import op

revision = "0005"
down_revision = "0004"

_TABLES = (
    # A row is a claim: this key means this request. What became of it, the journal says; `answer` is sealed with the
    # tenant's key. No foreign key leads to the journal: a claim is written before its row, and outlives a partition.
    """
CREATE TABLE idempotency_key (
  tenant_id text NOT NULL,
  key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 32),
  fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
  tenant_key text NOT NULL,
  request_id uuid NOT NULL,
  instance_id text NOT NULL,
  key_id text NOT NULL,
  model text NOT NULL,
  action text NOT NULL,
  answer bytea CHECK (octet_length(answer) <= 1114112),
  claimed_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '24 hours',
  PRIMARY KEY (tenant_id, key_hash)
)""",
    "ALTER TABLE idempotency_key ALTER COLUMN answer SET STORAGE EXTERNAL",  # ciphertext does not compress
    "CREATE INDEX idempotency_key_expiry ON idempotency_key (expires_at)",
    """
CREATE TABLE webhook_endpoint (
  endpoint_id text PRIMARY KEY CHECK (endpoint_id ~ '^we_[0-9A-Za-z]{12}$'),
  tenant_id text NOT NULL REFERENCES tenant,
  url text NOT NULL CHECK (octet_length(url) <= 2048),
  events text[],
  label text NOT NULL DEFAULT '',
  secret bytea NOT NULL,
  secret_from timestamptz NOT NULL DEFAULT now(),
  old_secret bytea,
  old_secret_until timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  disabled_at timestamptz,
  disabled_reason text NOT NULL DEFAULT '',
  deleted_at timestamptz
)""",
    "CREATE INDEX webhook_endpoint_tenant ON webhook_endpoint (tenant_id) WHERE deleted_at IS NULL",
    # What happened, once: `dedupe` is the name under which it can happen only once. `body` is what is signed and sent.
    """
CREATE TABLE webhook_event (
  event_id text PRIMARY KEY CHECK (event_id ~ '^evt_[0-9a-f-]{36}$'),
  tenant_id text NOT NULL REFERENCES tenant,
  type text NOT NULL,
  dedupe text NOT NULL,
  body text NOT NULL CHECK (octet_length(body) <= 16384),
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (tenant_id, dedupe)
)""",
    """
CREATE TABLE webhook_delivery (
  event_id text NOT NULL REFERENCES webhook_event,
  endpoint_id text NOT NULL REFERENCES webhook_endpoint,
  tenant_id text NOT NULL REFERENCES tenant,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
  attempts integer NOT NULL DEFAULT 0,
  next_at timestamptz NOT NULL DEFAULT now(),
  last_at timestamptz,
  last_status integer,
  last_error text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (endpoint_id, event_id)
)""",
    "CREATE INDEX webhook_delivery_due ON webhook_delivery (endpoint_id, next_at) WHERE status = 'pending'",
    "CREATE INDEX webhook_delivery_event ON webhook_delivery (event_id)",
)

_GRANTS = (
    (
        "GRANT SELECT ON idempotency_key, webhook_endpoint, webhook_event, webhook_delivery"
        " TO sekisho_app, sekisho_auditor"
    ),
    "GRANT INSERT, UPDATE, DELETE ON idempotency_key, webhook_delivery TO sekisho_app",
    "GRANT INSERT, UPDATE ON webhook_endpoint TO sekisho_app",
    "GRANT INSERT, DELETE ON webhook_event TO sekisho_app",
)


def upgrade() -> None:
    for statement in (*_TABLES, *_GRANTS):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE webhook_delivery, webhook_event, webhook_endpoint, idempotency_key")
