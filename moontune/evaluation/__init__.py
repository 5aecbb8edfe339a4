"""The one evaluator: how good answers are against labels, by metrics that are not the rewards.

Every number that a person sees (job, demo, console, benchmark) comes from here, so that two of them can be compared.
Each image contributes one `Tally`; a metric is the pooled ratio of the tallies; the bootstrap resamples images.
No torch and no protobuf.
"""

from moontune.evaluation.bootstrap import Interval, paired_difference, pooled_interval
from moontune.evaluation.exact_match import is_exact_match, normalise
from moontune.evaluation.f1 import MatchCounts, detect_counts, f1, point_in_box_counts, point_near_counts
from moontune.evaluation.matching import Match, best_total, greedy_matches, iou_matrix, most_matches, optimal_matches
from moontune.evaluation.metric import METRICS, Metric, default_metric, evaluate, metric_named
from moontune.evaluation.tally import Tally, pooled

__all__ = [
    "METRICS",
    "Interval",
    "Match",
    "MatchCounts",
    "Metric",
    "Tally",
    "best_total",
    "default_metric",
    "detect_counts",
    "evaluate",
    "f1",
    "greedy_matches",
    "iou_matrix",
    "is_exact_match",
    "metric_named",
    "most_matches",
    "normalise",
    "optimal_matches",
    "paired_difference",
    "point_in_box_counts",
    "point_near_counts",
    "pooled",
    "pooled_interval",
]
