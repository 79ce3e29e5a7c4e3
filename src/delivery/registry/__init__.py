"""The model registry: versions and stages as Git tags."""
