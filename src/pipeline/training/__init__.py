"""The parts of training; the loop itself is pipeline/train.py."""
