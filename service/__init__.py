"""Everything after the model bundle. Never imports `pipeline`, never imports torch."""
