"""Which labels the result of a PromQL expression may have: what Prometheus's operators do with labels, over sets.

Sources: the documentation of Prometheus, "Operators" (vector matching, aggregation) and "Functions".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import promql_parser
from promql_parser import AggModifierType, LabelModifierType, VectorMatchCardinality

if TYPE_CHECKING:
    from collections.abc import Callable

_SETS = {"and", "or", "unless"}
_WITHOUT_LABELS = {"vector", "scalar", "time", "absent", "absent_over_time"}
_CHOICES = {"topk", "bottomk"}  # keep the series as they are


def labels_of(query: str, of_metric: Callable[[str], frozenset[str]]) -> frozenset[str]:
    """Return the labels that series of the result may have; `of_metric` gives those of a metric or recorded series."""
    return _of(promql_parser.parse(query), of_metric)


def _of(node: Any, of_metric: Callable[[str], frozenset[str]]) -> frozenset[str]:
    match node:
        case promql_parser.VectorSelector():
            return of_metric(node.name or "")
        case promql_parser.MatrixSelector():
            return of_metric(node.vector_selector.name or "")
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            return _of(node.expr, of_metric)
        case promql_parser.AggregateExpr():
            return _of_aggregate(node, of_metric)
        case promql_parser.BinaryExpr():
            return _of_binary(node, of_metric)
        case promql_parser.Call():
            return _of_call(node, of_metric)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return frozenset()
    raise TypeError(f"an expression of another kind: {type(node).__name__}")


def _of_aggregate(node: Any, of_metric: Callable[[str], frozenset[str]]) -> frozenset[str]:
    inner = _of(node.expr, of_metric)
    if str(node.op) in _CHOICES:
        return inner
    named = frozenset(node.modifier.labels) if node.modifier else frozenset()
    is_without = node.modifier is not None and node.modifier.type == AggModifierType.Without
    added = frozenset({node.param.val}) if str(node.op) == "count_values" else frozenset()
    return (inner - named if is_without else inner & named) | added


def _of_binary(node: Any, of_metric: Callable[[str], frozenset[str]]) -> frozenset[str]:
    left, right = _of(node.lhs, of_metric), _of(node.rhs, of_metric)
    if str(node.op) == "or":
        return left | right
    if str(node.op) in _SETS or not (left and right):  # nothing is matched with a number
        return left or right
    modifier = node.modifier
    cardinality = modifier.card if modifier else VectorMatchCardinality.OneToOne
    many = right if cardinality == VectorMatchCardinality.OneToMany else left
    if cardinality in (VectorMatchCardinality.ManyToOne, VectorMatchCardinality.OneToMany):
        one = left if many is right else right
        return many | (frozenset(modifier.group_labels or ()) & one)
    if modifier is None or modifier.matching is None:
        return left
    named = frozenset(modifier.matching.labels)
    return left & named if modifier.matching.type == LabelModifierType.Include else left - named


def _of_call(node: Any, of_metric: Callable[[str], frozenset[str]]) -> frozenset[str]:
    if node.func.name in _WITHOUT_LABELS:
        return frozenset()
    found = frozenset[str]().union(*(_of(argument, of_metric) for argument in node.args))
    return found | {node.args[1].val} if node.func.name in ("label_replace", "label_join") else found
