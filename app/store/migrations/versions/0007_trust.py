"""How far a latency table can be trusted."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

FIGURES = ("drift", "interpolation", "calibration_residual")


def upgrade() -> None:
    with op.batch_alter_table("lut") as batch:
        for name in FIGURES:
            batch.add_column(sa.Column(name, sa.Double(), nullable=False, server_default="0"))
    with op.batch_alter_table("lut") as batch:
        for name in FIGURES:
            batch.alter_column(name, server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("lut") as batch:
        for name in FIGURES:
            batch.drop_column(name)
