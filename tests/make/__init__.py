"""Makers of inputs: images, bundles, repositories, databases, servers."""
