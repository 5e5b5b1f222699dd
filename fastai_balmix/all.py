"""The public names: `from fastai_balmix.all import *` after `from fastai.vision.all import *` shadows none of fastai's.

`fastai_balmix.report` is imported for the methods it adds, such as `BalancedMixUp.show`; its functions stay in their module, their
names being too general for `import *`."""
from fastai_balmix import report
from fastai_balmix.callback import BalancedMixUp
from fastai_balmix.loaders import train_labels
from fastai_balmix.longtail import digits_lt,tail_counts,tail_idxs
from fastai_balmix.sampling import ClassSampler,class_counts,mixed_probs,sampling_probs

__all__ = ['BalancedMixUp', 'ClassSampler', 'class_counts', 'digits_lt', 'mixed_probs', 'sampling_probs', 'tail_counts', 'tail_idxs',
           'train_labels']
