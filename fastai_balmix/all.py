"""The everyday names: `from fastai_balmix.all import *` after `from fastai.vision.all import *` shadows no fastai name.

Importing it also puts `FitCheck` into every learner made afterwards, and adds the methods `dls.weighted`,
`dls.cached`, `learn.tta_flip` and `BalancedMixUp.show`. Readers, comparisons and reports stay in
`fastai_balmix.datasets`, `.compare` and `.report`, as their names are too general for a star import."""
from fastai.basics import defaults
from fastai_balmix.callback.checkpoint import Checkpoint
from fastai_balmix.callback.deferred import Deferred
from fastai_balmix.callback.ema import EMA
from fastai_balmix.callback.fitcheck import FitCheck,nominal_prior
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.callback.rivals import ProgressiveSampling,Remix
from fastai_balmix.callback.show import class_distribution,plot_class_distribution
from fastai_balmix.callback.unfreeze import Unfreezing
from fastai_balmix.classifier import cosine_head,crt,linear_probe,tau_normalise
from fastai_balmix.datasets.longtail import digits_lt,small_net,tail_counts,tail_idxs
from fastai_balmix.inference.prior import PriorCalibrator,adjust_prior,estimate_prior,operating_curve
from fastai_balmix.inference.tta import FlipTTA
from fastai_balmix.loaders import cache,weighted # noqa: F401 # they add methods to fastai's classes
from fastai_balmix.loaders.draws import ClassSampler,class_counts,mixed_probs,sampling_probs
from fastai_balmix.loaders.labels import train_labels
from fastai_balmix.losses.grades import CostSensitiveRegularisation,GaussianLabelSmoothing,QWKLoss
from fastai_balmix.losses.rare import (
    ClassBalancedLoss,LabelAwareSmoothing,LDAMLoss,LogitAdjustedLoss,WeightedFocalLoss,cb_weights,drw_weights)
from fastai_balmix.metrics.intervals import confidence_interval,paired_test
from fastai_balmix.metrics.learner import (
    BalancedAcc,BrierError,CalibrationError,ConfusionMetric,GeometricMean,KendallTau,MCC,MacroF1,QuadKappa,
    imbalance_metrics,shot_metrics)
from fastai_balmix.metrics.probabilities import brier_error,calibration_bins,calibration_error,per_class_auc
from fastai_balmix.metrics.scores import (
    balanced_acc,confusion,geometric_mean,group_classes,kendall_tau,macro_f1,mcc,per_class,quad_kappa,reweight)
from fastai_balmix.ordinal import CornHead,CornLoss,GradeHead,GradeLoss

# By name, so that a module which is loaded anew does not bring a second one
if FitCheck.__name__ not in [getattr(o, '__name__', '') for o in defaults.callbacks]:
    defaults.callbacks.append(FitCheck)

__all__ = [
    'BalancedAcc', 'BalancedMixUp', 'BrierError', 'CalibrationError', 'Checkpoint', 'ClassBalancedLoss',
    'ClassSampler', 'ConfusionMetric', 'CornHead', 'CornLoss', 'CostSensitiveRegularisation', 'Deferred', 'EMA',
    'FlipTTA', 'GaussianLabelSmoothing', 'GeometricMean', 'GradeHead', 'GradeLoss', 'KendallTau', 'LDAMLoss',
    'LabelAwareSmoothing', 'LogitAdjustedLoss', 'MCC', 'MacroF1', 'PriorCalibrator', 'ProgressiveSampling',
    'QWKLoss', 'QuadKappa', 'Remix', 'Unfreezing', 'WeightedFocalLoss', 'adjust_prior', 'balanced_acc', 'brier_error',
    'calibration_bins', 'calibration_error', 'cb_weights', 'class_counts', 'class_distribution',
    'confidence_interval', 'confusion', 'cosine_head', 'crt', 'digits_lt', 'drw_weights', 'estimate_prior',
    'geometric_mean', 'group_classes', 'imbalance_metrics', 'kendall_tau', 'linear_probe', 'macro_f1', 'mcc',
    'mixed_probs', 'nominal_prior', 'operating_curve', 'paired_test', 'per_class', 'per_class_auc',
    'plot_class_distribution', 'quad_kappa', 'reweight', 'sampling_probs', 'shot_metrics', 'small_net',
    'tail_counts', 'tail_idxs', 'tau_normalise', 'train_labels']
