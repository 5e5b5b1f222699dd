from .draws import class_counts, ClassSampler, mixed_probs, sampling_probs
from .labels import class_names, single_labels, train_labels
from .extend import extend_loader, LoaderExtension
from .weighted import Weighted
from .cache import CacheInfo
from .pairing import draw_lams, mix_pairs, pair_loader, split_pairs

__all__ = [
    'CacheInfo', 'class_counts', 'class_names', 'ClassSampler', 'draw_lams', 'extend_loader',
    'LoaderExtension', 'mix_pairs', 'mixed_probs', 'pair_loader', 'sampling_probs', 'single_labels',
    'split_pairs', 'train_labels', 'Weighted',
]
