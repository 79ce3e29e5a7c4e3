"""Predictions, answers, images."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "models",
        sa.Column("id", LONG, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("tag", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("classes", sa.Text, nullable=False),
        sa.Column("floor", sa.Float),
        sa.Column("dtype", sa.Text, nullable=False),
        sa.Column("shape", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="models_pkey"),
        sa.UniqueConstraint("digest", name="models_digest_unique"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "predictions",
        sa.Column("number", LONG, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("predicted_at", sa.BigInteger, nullable=False),
        sa.Column("model", LONG, nullable=False),
        sa.Column("predicted", sa.Text, nullable=False),
        sa.Column("probability", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("number", name="predictions_pkey"),
        sa.UniqueConstraint("request_id", name="predictions_request_id_unique"),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name="predictions_model_fkey"),
        sqlite_autoincrement=True,
    )
    op.create_index("predictions_predicted_at", "predictions", ["predicted_at"])
    op.create_table(
        "images",
        sa.Column("number", LONG, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="images_pkey"),
        _of_prediction("images"),
    )
    op.create_index("images_kind", "images", ["kind", "number", "size"])
    op.create_table(
        "feedback",
        sa.Column("number", LONG, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("answered_at", sa.BigInteger, nullable=False),
        sa.Column("answers", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", name="feedback_pkey"),
        _of_prediction("feedback"),
    )
    op.create_index("feedback_answered_at", "feedback", ["answered_at"])


def downgrade() -> None:
    """Drop the tables, and what is in them."""
    for name in ("feedback", "images", "predictions", "models"):
        op.drop_table(name)


def _of_prediction(table: str) -> sa.ForeignKeyConstraint:
    name = f"{table}_number_fkey"
    return sa.ForeignKeyConstraint(
        ["number"], ["predictions.number"], name=name, ondelete="CASCADE"
    )
