"""Data sets, images, splits and prepared arrays."""
