from .scores import (
    balanced_acc, confusion, geometric_mean, group_classes, kendall_tau, macro_f1, mcc, OperatingPoint, per_class,
    quad_kappa, reweight, Score, score_registry, score_row, wilson,
)
from .probabilities import brier_error, calibration_bins, calibration_error, per_class_auc
from .learner import (
    BalancedAcc, BrierError, CalibrationError, ConfusionMetric, GeometricMean, imbalance_metrics, KendallTau,
    MacroF1, MCC, QuadKappa, shot_metrics, SummedMetric,
)
from .intervals import confidence_interval, Interval, paired_test, PairedTest
from .differences import least_difference, method_differences, recall_differences, score_intervals

__all__ = [
    'balanced_acc', 'BalancedAcc', 'brier_error', 'BrierError', 'calibration_bins', 'calibration_error',
    'CalibrationError', 'confidence_interval', 'confusion', 'ConfusionMetric', 'geometric_mean',
    'GeometricMean', 'group_classes', 'imbalance_metrics',
    'Interval', 'kendall_tau', 'KendallTau', 'least_difference', 'macro_f1', 'MacroF1', 'MCC', 'mcc',
    'method_differences', 'OperatingPoint', 'paired_test', 'PairedTest', 'per_class', 'per_class_auc', 'quad_kappa',
    'QuadKappa', 'recall_differences', 'reweight', 'Score', 'score_intervals', 'score_registry', 'score_row',
    'shot_metrics', 'SummedMetric', 'wilson',
]
