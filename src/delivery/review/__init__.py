"""Review apps: the candidate of a merge request, served under its own name."""
