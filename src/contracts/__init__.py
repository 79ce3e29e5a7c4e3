"""What the packages promise each other: tags, the model bundle, reports, the facts of a commit.

Every package imports this one, and this one imports pydantic and the standard library alone.
"""
