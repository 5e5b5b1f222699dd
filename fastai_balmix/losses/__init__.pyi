from .rare import (
    cb_weights, ClassBalancedLoss, drw_weights, LabelAwareSmoothing, LDAMLoss, LogitAdjustedLoss, WeightedFocalLoss)
from .grades import CostSensitiveRegularisation, GaussianLabelSmoothing, QWKLoss
from .base import ClassLoss

__all__ = [
    'cb_weights', 'ClassBalancedLoss', 'ClassLoss', 'CostSensitiveRegularisation', 'drw_weights', 'GaussianLabelSmoothing',
    'LabelAwareSmoothing', 'LDAMLoss', 'LogitAdjustedLoss', 'QWKLoss', 'WeightedFocalLoss',
]
