"""Runs migrations on the connection that `service.feedback.database` gives, in its transaction."""

from alembic import context

from service.feedback.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can do it, too, once the transaction is begun by hand: see feedback/database.py.
    transactional_ddl=True,
)
context.run_migrations()
