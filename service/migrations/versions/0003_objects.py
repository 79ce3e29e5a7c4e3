"""Objects that a model found, and those that people say are there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

VERDICT = ("found", "missed", "false")


def upgrade() -> None:
    """Add the columns; predictions before them answered one class."""
    op.add_column("predictions", sa.Column("objects", sa.Text))
    with op.batch_alter_table("feedback") as table:  # SQLite has to write the table anew
        table.alter_column("label", existing_type=sa.Text(), nullable=True)
        table.add_column(sa.Column("objects", sa.Text))
        for name in VERDICT:
            table.add_column(sa.Column(name, sa.Integer))


def downgrade() -> None:
    """Drop them, and the predictions of objects with their labels."""
    op.execute("DELETE FROM predictions WHERE objects IS NOT NULL")
    op.drop_column("predictions", "objects")
    with op.batch_alter_table("feedback") as table:
        for name in ("objects", *VERDICT):
            table.drop_column(name)
        table.alter_column("label", existing_type=sa.Text(), nullable=False)
