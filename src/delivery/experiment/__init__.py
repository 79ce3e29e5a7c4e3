"""The experiment of a merge request: train, push, commit, tag."""
