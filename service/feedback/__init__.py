"""Recorded predictions, the labels people give, and live accuracy."""
