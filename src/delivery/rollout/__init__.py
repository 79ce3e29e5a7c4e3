"""A stage of the cluster serves a version, or goes back to what it served before."""
