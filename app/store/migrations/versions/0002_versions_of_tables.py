"""Versions of latency tables, their pairs and pictures; jobs that build tables."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("lut") as batch:
        batch.add_column(sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
        batch.add_column(sa.Column("published_version", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("imported", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch.add_column(sa.Column("coarse", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch.add_column(sa.Column("num_pairs", sa.Integer(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("residual", sa.Double(), nullable=True))
    with op.batch_alter_table("prune_job") as batch:
        batch.add_column(sa.Column("kind", sa.String(length=16), nullable=False, server_default="prune"))
        batch.add_column(sa.Column("tables", sa.JSON(), nullable=False, server_default="[]"))

    op.create_table(
        "lut_version",
        sa.Column("lut_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("blob_sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("num_entries", sa.Integer(), nullable=False),
        sa.Column("num_signatures", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["lut_id"], ["lut.id"], name=op.f("fk_lut_version_lut_id_lut"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("lut_id", "number", name=op.f("pk_lut_version")),
    )
    op.create_index(op.f("ix_lut_version_blob_sha256"), "lut_version", ["blob_sha256"], unique=False)
    op.execute(
        "INSERT INTO lut_version (lut_id, number, blob_sha256, size_bytes, num_entries, num_signatures, source, name, "
        "created_at) SELECT id, 1, blob_sha256, 0, num_entries, num_signatures, 'job', '', updated_at FROM lut"
    )

    op.create_table(
        "lut_pair",
        sa.Column("lut_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("predicted_ms", sa.Double(), nullable=False),
        sa.Column("measured_ms", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["lut_id"], ["lut.id"], name=op.f("fk_lut_pair_lut_id_lut"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("lut_id", "job_id", name=op.f("pk_lut_pair")),
    )

    op.create_table(
        "lut_file",
        sa.Column("lut_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("made_of", sa.String(length=100), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["lut_id"], ["lut.id"], name=op.f("fk_lut_file_lut_id_lut"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("lut_id", "name", name=op.f("pk_lut_file")),
    )
    op.create_index(op.f("ix_lut_file_sha256"), "lut_file", ["sha256"], unique=False)


def downgrade() -> None:

    op.drop_table("lut_file")

    op.drop_table("lut_pair")

    op.drop_table("lut_version")

    with op.batch_alter_table("prune_job") as batch:
        batch.drop_column("tables")
        batch.drop_column("kind")
    with op.batch_alter_table("lut") as batch:
        for name in ("residual", "num_pairs", "coarse", "imported", "published_version", "version"):
            batch.drop_column(name)
