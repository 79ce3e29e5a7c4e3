"""From a trained network to the model bundle, and back into a session."""
