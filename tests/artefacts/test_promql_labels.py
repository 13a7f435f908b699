from __future__ import annotations

import pytest

from tests.artefacts.promql_labels import labels_of

LABELS = {"a": frozenset({"x", "y"}), "b": frozenset({"x", "z"}), "c": frozenset[str]()}


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ("a", "x y"),
        ("a > 5", "x y"),
        ("5 - a", "x y"),
        ("-(a)", "x y"),
        ("sum(a)", ""),
        ("sum by (x, q) (a)", "x"),
        ("sum without (x) (a)", "y"),
        ("topk by (x) (1, a)", "x y"),
        ('count_values by (x) ("n", a)', "x n"),
        ("a and on (x) b", "x y"),
        ("a unless b", "x y"),
        ("a or b", "x y z"),
        ("a * on (x) b", "x"),
        ("a * ignoring (y) b", "x"),
        ("a * on (x) group_left (z, q) b", "x y z"),
        ("a * on (x) group_right (y) b", "x y z"),
        ('label_replace(a, "n", "", "", "")', "x y n"),
        ("max_over_time(a[5m])", "x y"),
        ("absent(a)", ""),
        ("vector(1)", ""),
    ],
)
def test_labels_are_those_that_prometheus_leaves(query: str, labels: str) -> None:
    """The labels of a result follow from the operator, as Prometheus's documentation describes."""
    assert labels_of(query, LABELS.__getitem__) == set(labels.split())
