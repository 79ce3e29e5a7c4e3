#!/bin/sh
# The pod of a stage: see pod.py.
exec python -m tests.e2e.pod
