"""From a trained commit to a rollout: merge requests, the registry of tags, images, stages."""
