"""Tests of a trained model: slices, disturbances, invariance, latency, memory (tests.yaml).

Delete this folder, tests.yaml and the stage `model_tests` of dvc.yaml if you do not want them; the
gate, the report and the registries then have nothing to show.
"""
