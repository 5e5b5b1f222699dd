"""Pictures of loaders that no notebook has."""

import matplotlib.pyplot as plt
from torch.utils.data import DataLoader,SubsetRandomSampler
from fastai.data.core import DataLoaders
from fastai_balmix.all import BalancedMixUp
from toys import Counting,tail_targets

def test_pairs_are_shown_of_the_items_that_a_sampler_visits():
    ds,subset = Counting(tail_targets(60,30,10), shape=(3,4,4)),range(50,70)
    BalancedMixUp(.2, seed=0).show(DataLoaders(DataLoader(ds, 8, sampler=SubsetRandomSampler(subset))), n=10)
    plt.close('all')
    # The first item opened is the one on which the inputs are checked
    assert len(ds.opened)==21 and {*ds.opened[1:]} <= {*subset} and len({*ds.opened[1:11]})==10
