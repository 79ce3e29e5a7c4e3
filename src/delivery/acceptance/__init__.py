"""Acceptance: the stories played on systems that their user owns, with a report."""
