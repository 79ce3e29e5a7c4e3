"""PromQL that several panels share. `by` is a list of labels, separated by commas."""

RATE = "$__rate_interval"  # Grafana: at least four scrapes


def rate(metric: str, labels: str, by: str = "", window: str = RATE) -> str:
    """The growth of a counter per second."""
    return f"{_sum(by)} (rate({metric}{{{labels}}}[{window}]))"


def mean(metric: str, labels: str, by: str = "") -> str:
    """The mean of a histogram or summary; no series without observations."""
    return f"{rate(f'{metric}_sum', labels, by)} / {rate(f'{metric}_count', labels, by)}"


def quantile(share: float, metric: str, labels: str, by: str = "", window: str = RATE) -> str:
    """A quantile of a histogram."""
    both = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, both, window)})"


def largest(metric: str, labels: str, by: str = "") -> str:
    """A gauge that all workers or replicas report alike, once."""
    return f"max by ({by}) ({metric}{{{labels}}})" if by else f"max({metric}{{{labels}}})"


def largest_of(count: int, expr: str, over: str) -> str:
    """The `count` series of `expr` whose `over` is largest at the end of the time range.

    The choice is made once, so that a line does not change its series. `over` needs a long window:
    with a short one nothing would be shown when the service was down at the end.
    """
    return f"{expr} and topk({count}, {over.replace(']', '] @ end()')})"


def or_zero(expr: str) -> str:
    """Zero if the series does not exist, for example of errors that never happened."""
    return f"({expr} or vector(0))"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
