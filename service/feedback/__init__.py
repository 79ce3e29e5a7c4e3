"""Recorded predictions, the labels people give, and live accuracy."""

FEEDBACK_FILE = "feedback.db"
"""Name of the database in SERVICE_STATE, without a URL."""
