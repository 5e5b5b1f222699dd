from .figures import (
    plot_comparison, plot_confusion, plot_history, plot_operating_curve, plot_per_class, plot_recall_change,
    plot_reliability, plot_roc, plot_shares, top_mistakes,
)
from .answers import against_rest, auroc_interval, recall_change, worst_mistakes
from .comparison import results_card
from .network import learner_card
from .page import Report, report

__all__ = [
    'against_rest', 'auroc_interval', 'learner_card', 'plot_comparison', 'plot_confusion', 'plot_history',
    'plot_operating_curve', 'plot_per_class', 'plot_recall_change', 'plot_reliability', 'plot_roc',
    'plot_shares', 'recall_change', 'Report', 'report', 'results_card', 'top_mistakes', 'worst_mistakes',
]
