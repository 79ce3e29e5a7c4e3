"""By which rules of traffic a prediction was made, and how likely they chose its model."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; predictions before them were made by no rules."""
    op.add_column("predictions", sa.Column("rule", sa.Text))
    op.add_column("predictions", sa.Column("propensity", sa.Float))


def downgrade() -> None:
    """Drop them, and what is in them."""
    for name in ("propensity", "rule"):
        op.drop_column("predictions", name)
