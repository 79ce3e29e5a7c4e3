"""What predictions are worth, and champion against challenger."""
