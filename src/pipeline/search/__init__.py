"""The search for parameters: a room that can be deleted; nothing of the pipeline imports it.

space      what search.yaml asks for, typed against params.yaml
journal    where the history lies: a file, or PostgreSQL
study      the history of a search, its state and its budget
sampling   which point comes next, and which trial ends early
trial      one training
workers    processes that share the trials
results    what is left in reports/
winner     trains the best point by `dvc repro`, and proposes it
"""
