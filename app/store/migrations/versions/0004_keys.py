"""Projects, API keys, the audit trail; what there is belongs to the project `default`."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OWNED = ("model", "dataset", "prune_job")


def upgrade() -> None:
    op.create_table(
        "project",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
        sa.UniqueConstraint("name", name=op.f("uq_project_name")),
    )
    op.execute(
        "INSERT INTO project (id, name, limits, created_at) VALUES ('default', 'default', '{}', CURRENT_TIMESTAMP)"
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.String(length=64), nullable=True),
        sa.Column("derived", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_api_key_project_id_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_key_prefix")),
    )
    op.create_index(op.f("ix_api_key_project_id"), "api_key", ["project_id"], unique=False)
    op.create_index(op.f("ix_api_key_created_by"), "api_key", ["created_by"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=True),
        sa.Column("project_id", sa.String(length=64), nullable=True),
        sa.Column("action", sa.String(length=200), nullable=False),
        sa.Column("object_kind", sa.String(length=64), nullable=True),
        sa.Column("object_id", sa.String(length=200), nullable=True),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_key_id"), "audit", ["key_id"], unique=False)
    op.create_index(op.f("ix_audit_object_id"), "audit", ["object_id"], unique=False)
    op.create_index(op.f("ix_audit_project_id_id"), "audit", ["project_id", "id"], unique=False)

    # Not in batches: those would rebuild the SQLite tables without their CHECK constraints.
    for table in OWNED:
        _add_project(table, "NOT NULL DEFAULT 'default'")
    op.create_index(op.f("ix_model_project_id"), "model", ["project_id"], unique=False)
    op.create_index(op.f("ix_dataset_project_id"), "dataset", ["project_id"], unique=False)
    op.create_index(
        op.f("ix_prune_job_project_id_status_id"), "prune_job", ["project_id", "status", "id"], unique=False
    )
    _add_project("device", "")
    op.execute("UPDATE device SET project_id = 'default' WHERE profiles IS NOT NULL")
    _add_project("idempotency_key", "NOT NULL DEFAULT 'default'")
    with op.batch_alter_table("idempotency_key") as batch:
        batch.drop_constraint(op.f("pk_idempotency_key"), type_="primary")
        batch.create_primary_key(op.f("pk_idempotency_key"), ["project_id", "route", "key"])


def downgrade() -> None:
    op.execute("DELETE FROM idempotency_key WHERE project_id <> 'default'")
    with op.batch_alter_table("idempotency_key") as batch:
        batch.drop_constraint(op.f("pk_idempotency_key"), type_="primary")
        batch.drop_column("project_id")
        batch.create_primary_key(op.f("pk_idempotency_key"), ["route", "key"])
    op.drop_index(op.f("ix_prune_job_project_id_status_id"), table_name="prune_job")
    op.drop_index(op.f("ix_dataset_project_id"), table_name="dataset")
    op.drop_index(op.f("ix_model_project_id"), table_name="model")
    for table in ("device", *OWNED):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("project_id")
    op.drop_table("audit")
    op.drop_table("api_key")
    op.drop_table("project")


def _add_project(table: str, nullable: str) -> None:
    name = op.f(f"fk_{table}_project_id_project")
    op.execute(
        f"ALTER TABLE {table} ADD COLUMN project_id VARCHAR(64) {nullable} CONSTRAINT {name} REFERENCES project (id)"
    )
