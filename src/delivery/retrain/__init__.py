"""From an alert or a schedule to a merge request with a retrained model."""
