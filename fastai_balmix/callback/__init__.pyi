from .mixup import BalancedMixUp
from .deferred import Deferred, first_deferred
from .rivals import ProgressiveSampling, Remix, remix_weights
from .fitcheck import check_order, FitCheck, nominal_prior
from .checkpoint import Checkpoint
from .ema import EMA
from .unfreeze import Unfreezing
from .show import class_distribution, plot_class_distribution

__all__ = [
    'BalancedMixUp', 'check_order', 'Checkpoint', 'class_distribution', 'Deferred', 'EMA', 'first_deferred', 'FitCheck',
    'nominal_prior', 'plot_class_distribution', 'ProgressiveSampling', 'Remix', 'remix_weights',
    'Unfreezing',
]
