"""The parts of the merge-request report."""
