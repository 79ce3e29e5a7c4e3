"""Training and other work as jobs: submitted at once, run by the engine that a team has."""
