"""Reading PromQL: the metrics that an expression names, and the labels of its selectors."""

import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
KEYWORDS = {"and", "or", "unless", "offset", "bool", "on", "ignoring", "group_left", "group_right"}
LABELS = re.compile(
    r"\boffset\s+\w+|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
)
INSIDE = re.compile(r'"(?:\\.|[^"\\])*"|\{[^}]*\}|\[[^\]]*\]')
SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
MATCHER = re.compile(r'([a-z0-9_]+)\s*(?:=~|!~|!=|=)\s*"')


def everything(expr: str, window: str = "1m") -> str:
    """An expression of a panel with Grafana's variables set to "All"."""
    return re.sub(r'"\$\w+"', '".*"', expr.replace("$__rate_interval", window))


def metrics(expr: str) -> set[str]:
    """The metrics that an expression names."""
    text = LABELS.sub(" ", INSIDE.sub(" ", expr))
    names = {found[0]: text[found.end() :].lstrip()[:1] for found in NAME.finditer(text)}
    return {name for name, after in names.items() if after != "(" and name not in KEYWORDS}


def matched_labels(expr: str) -> set[tuple[str, str]]:
    """Metric and label of every matcher."""
    return {
        (metric, label)
        for metric, matchers in SELECTOR.findall(expr)
        for label in MATCHER.findall(matchers)
    }


def kept_labels(expr: str) -> set[str]:
    """The labels that an expression groups by."""
    groups = re.findall(r"\bby \(([^)]*)\)", expr)
    return {label.strip() for group in groups for label in group.split(",")}
