"""Changing the model that serves: hot swap, desired model, reconciliation."""
