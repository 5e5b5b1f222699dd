from .tta import FlipTTA
from .prior import adjust_prior, estimate_prior, operating_curve, PriorCalibrator

__all__ = [
    'adjust_prior', 'estimate_prior', 'FlipTTA', 'operating_curve', 'PriorCalibrator',
]
