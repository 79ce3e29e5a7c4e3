"""Predicts many images without a server: a folder, list, zip or S3 prefix in, Parquet out."""
