"""From the bytes of an upload to the output of the model."""
