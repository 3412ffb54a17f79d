"""Scheduling and tracing of jobs: who submitted them and when it is their turn, what they wait for, which request made them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")
WAITING = sa.text("status = 'queued' AND turn IS NULL")


def _index(name: str, *columns: str, where: sa.TextClause) -> None:
    op.create_index(name, "prune_job", list(columns), postgresql_where=where, sqlite_where=where)


def upgrade() -> None:
    with op.batch_alter_table("prune_job") as batch:
        batch.add_column(sa.Column("submitter", sa.String(length=64), nullable=False, server_default=""))
        batch.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("queue", sa.String(length=128), nullable=False, server_default=""))
        # Jobs that are there are on their queues already: they wait for nobody.
        batch.add_column(sa.Column("turn", sa.BigInteger(), nullable=True, server_default="0"))
        batch.add_column(sa.Column("request_id", sa.String(length=64), nullable=False, server_default=""))
        batch.add_column(sa.Column("traceparent", sa.String(length=64), nullable=False, server_default=""))
    with op.batch_alter_table("prune_job") as batch:
        for name in ("submitter", "priority", "queue", "turn", "request_id", "traceparent"):
            batch.alter_column(name, server_default=None)
    op.create_index(op.f("ix_prune_job_ended_at"), "prune_job", ["ended_at"])
    _index("ix_prune_job_turn", "queue", "priority", "turn", where=QUEUED)
    _index("ix_prune_job_turn_of_submitter", "queue", "priority", "submitter", "turn", where=QUEUED)
    _index("ix_prune_job_waiting", "id", where=WAITING)
    op.create_table(
        "job_wait",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("needs_id", sa.String(length=64), nullable=False),
        sa.Column("must_succeed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["prune_job.id"], name=op.f("fk_job_wait_job_id_prune_job"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["needs_id"], ["prune_job.id"], name=op.f("fk_job_wait_needs_id_prune_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "needs_id", name=op.f("pk_job_wait")),
    )
    op.create_index(op.f("ix_job_wait_needs_id"), "job_wait", ["needs_id"])


def downgrade() -> None:
    op.drop_table("job_wait")
    for name in ("waiting", "turn_of_submitter", "turn", "ended_at"):
        op.drop_index(f"ix_prune_job_{name}", "prune_job")
    with op.batch_alter_table("prune_job") as batch:
        for name in ("traceparent", "request_id", "turn", "queue", "priority", "submitter"):
            batch.drop_column(name)
