"""What the figures of docs/benchmarks.md come from. Each prints its machine, versions and n."""
