from tests.monitoring.promql import everything, kept_labels, matched_labels, metrics


def test_metrics_and_labels_are_found_in_expressions() -> None:
    expr = 'sum by (le, tag) (rate(a_total{b="c{",d!~"e"}[5m])) / on (f) group_left g:h:i'
    expr += " > 0.5 and j offset 30m"
    assert metrics(expr) == {"a_total", "g:h:i", "j"}
    assert matched_labels(expr) == {("a_total", "b"), ("a_total", "d")}
    assert kept_labels(expr) == {"le", "tag"}
    assert everything('a{tag=~"$tag"}[$__rate_interval]') == 'a{tag=~".*"}[1m]'
