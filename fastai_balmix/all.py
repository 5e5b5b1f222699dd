"""The everyday names: `from fastai_balmix.all import *` after `from fastai.vision.all import *` shadows no fastai name.

Importing it also puts `FitCheck` into every learner made afterwards, and adds the methods `dls.weighted`,
`dls.cached`, `learn.tta_flip` and `BalancedMixUp.show`. Readers, comparisons and reports stay in
`fastai_balmix.datasets`, `.compare` and `.report`, as their names are too general for a star import."""
from fastai.basics import defaults
from fastai_balmix.callback.checkpoint import Checkpoint
from fastai_balmix.callback.fitcheck import FitCheck,nominal_prior
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling,Remix
from fastai_balmix.callback.show import class_distribution,plot_class_distribution
from fastai_balmix.classifier import crt,tau_normalise
from fastai_balmix.datasets.longtail import digits_lt,small_net,tail_counts,tail_idxs
from fastai_balmix.inference.prior import PriorCalibrator,adjust_prior,estimate_prior,operating_curve
from fastai_balmix.inference.tta import FlipTTA
from fastai_balmix.loaders import cache,weighted # noqa: F401 # they add methods to fastai's classes
from fastai_balmix.loaders.draws import ClassSampler,class_counts,mixed_probs,sampling_probs
from fastai_balmix.loaders.labels import train_labels
from fastai_balmix.losses import (
    ClassBalancedLoss,CostSensitiveRegularisation,GaussianLabelSmoothing,LogitAdjustedLoss,QWKLoss,WeightedFocalLoss,
    cb_weights)
from fastai_balmix.metrics.intervals import confidence_interval,paired_test
from fastai_balmix.metrics.learner import (
    BalancedAcc,BrierError,CalibrationError,ConfusionMetric,GeometricMean,KendallTau,MCC,MacroF1,QuadKappa,
    imbalance_metrics,shot_metrics)
from fastai_balmix.metrics.scores import (
    balanced_acc,brier_error,calibration_bins,calibration_error,confusion,geometric_mean,group_classes,kendall_tau,
    macro_f1,mcc,per_class,per_class_auc,quad_kappa,reweight)

# By name, so that a module which is loaded anew does not bring a second one
if FitCheck.__name__ not in [getattr(o, '__name__', '') for o in defaults.callbacks]:
    defaults.callbacks.append(FitCheck)

__all__ = [
    'BalancedAcc', 'BalancedMixUp', 'BrierError', 'CalibrationError', 'Checkpoint', 'ClassBalancedLoss',
    'ClassSampler', 'ConfusionMetric', 'CostSensitiveRegularisation', 'FlipTTA', 'GaussianLabelSmoothing',
    'GeometricMean', 'KendallTau', 'LogitAdjustedLoss', 'MCC', 'MacroF1', 'PriorCalibrator', 'ProgressiveSampling',
    'QWKLoss', 'QuadKappa', 'Remix', 'WeightedFocalLoss', 'adjust_prior', 'balanced_acc', 'brier_error',
    'calibration_bins', 'calibration_error', 'cb_weights', 'class_counts', 'class_distribution',
    'confidence_interval', 'confusion', 'crt', 'digits_lt', 'estimate_prior', 'geometric_mean', 'group_classes',
    'imbalance_metrics', 'kendall_tau', 'macro_f1', 'mcc', 'mixed_probs', 'nominal_prior', 'operating_curve',
    'paired_test', 'per_class', 'per_class_auc', 'plot_class_distribution', 'quad_kappa', 'reweight',
    'sampling_probs', 'shot_metrics', 'small_net', 'tail_counts', 'tail_idxs', 'tau_normalise', 'train_labels']
