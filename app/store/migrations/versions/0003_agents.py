"""Agents: when a device was last heard of, what it measures in, and what is to be measured there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("device") as batch:
        batch.add_column(sa.Column("profiles", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "measurement",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("workflow_id", sa.String(length=128), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("agent_id", sa.String(length=64), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("num_lost", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("seconds_left", sa.Double(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('queued', 'leased', 'done', 'failed')", name=op.f("ck_measurement_status")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prune_job.id"], name=op.f("fk_measurement_job_id_prune_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement")),
        sa.UniqueConstraint("workflow_id", "step", "number", name=op.f("uq_measurement_workflow_id_step_number")),
    )
    op.create_index(op.f("ix_measurement_job_id"), "measurement", ["job_id"], unique=False)
    op.create_index(
        op.f("ix_measurement_device_id_status_id"), "measurement", ["device_id", "status", "id"], unique=False
    )


def downgrade() -> None:
    op.drop_table("measurement")
    with op.batch_alter_table("device") as batch:
        batch.drop_column("last_seen_at")
        batch.drop_column("profiles")
