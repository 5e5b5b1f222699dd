from .answers import against_rest, auroc_interval, recall_change, worst_mistakes
from .classes import plot_per_class, plot_recall_change, plot_shares
from .comparison import results_card
from .contrasts import plot_comparison
from .curves import plot_history, plot_operating_curve, plot_reliability, plot_roc
from .matrices import plot_confusion, plot_errors
from .mistakes import top_mistakes
from .network import learner_card
from .operating import reliability_bins
from .page import Report, report

__all__ = [
    'against_rest', 'auroc_interval', 'learner_card', 'plot_comparison', 'plot_confusion', 'plot_errors',
    'plot_history', 'plot_operating_curve', 'plot_per_class', 'plot_recall_change', 'plot_reliability', 'plot_roc',
    'plot_shares', 'recall_change', 'reliability_bins', 'Report', 'report', 'results_card', 'top_mistakes',
    'worst_mistakes',
]
