"""What the packages promise each other: tags, the model bundle, reports, the facts of a commit.

Every package imports this one. It imports pydantic and the standard library alone, but for
`images`, which only the pipeline and the service use: it needs NumPy and Pillow.
"""
