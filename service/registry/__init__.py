"""Experiments and bundles by Git tag, read by a child process."""
