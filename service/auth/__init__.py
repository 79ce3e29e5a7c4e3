"""Roles, API keys and tokens."""
