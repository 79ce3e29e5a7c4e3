"""Everything up to the model bundle: data in, a trained, measured and judged model out."""
