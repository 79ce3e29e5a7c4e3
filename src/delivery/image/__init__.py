"""The image of a version: the service and its model bundle."""
