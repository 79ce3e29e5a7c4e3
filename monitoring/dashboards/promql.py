"""The shapes of PromQL that several panels have. `by` is a list of labels, with commas between."""

RATE = "$__rate_interval"  # Grafana: at least four scrapes


def rate(metric: str, labels: str, by: str = "", window: str = RATE) -> str:
    """How fast a counter grows, a second."""
    return f"{_sum(by)} (rate({metric}{{{labels}}}[{window}]))"


def mean(metric: str, labels: str, by: str = "") -> str:
    """The mean of what a histogram or summary saw; nothing where it saw nothing."""
    return f"{rate(f'{metric}_sum', labels, by)} / {rate(f'{metric}_count', labels, by)}"


def quantile(share: float, metric: str, labels: str, by: str = "", window: str = RATE) -> str:
    """The value below which a share of a histogram lies."""
    both = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, both, window)})"


def largest(metric: str, labels: str, by: str = "") -> str:
    """One number of a gauge that several workers or replicas report alike."""
    return f"max by ({by}) ({metric}{{{labels}}})" if by else f"max({metric}{{{labels}}})"


def largest_of(count: int, expr: str, over: str) -> str:
    """Only the series of `expr` of which `over`, at the end of what is shown, is largest.

    So the lines are those of the same series all along. `over` looks back far, or there would be
    none when the service has been away at that end.
    """
    return f"{expr} and topk({count}, {over.replace(']', '] @ end()')})"


def or_zero(expr: str) -> str:
    """Zero where there is no such series, as with errors that never happened."""
    return f"({expr} or vector(0))"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
