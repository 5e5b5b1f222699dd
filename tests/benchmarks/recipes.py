"""Rate, momentum and weight decay for a small network from scratch: what the recipe `small` was chosen by.

    python tests/benchmarks/recipes.py --out docs/measured

Every recipe trains `small_net` on two long-tailed data sets, plainly and with Balanced-MixUp, with two seeds: digits
of 32×32 pixels (409 images, 120 of the most frequent class and 6 of the rarest, 15 epochs), and Fashion-MNIST (1,249
images, 500 and 5, 6 epochs). In training each image is mirrored with probability ½ and shifted by up to two pixels.
The score is the balanced accuracy of the last epoch in percent, on balanced images that were not trained on: 540
digits, 1,000 images of Fashion-MNIST. One thread, about ten minutes.

Fashion-MNIST is that of Debian's package dataset-fashion-mnist."""
import itertools
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from common import write_table
from fastai.vision.all import *
from fastcore.script import call_parse, store_true
from operating_points import Augment, Tensors, read_split

from fastai_balmix.all import *


def digit_parts(seed):
    "Training and validation images (N,3,32,32) with their labels"
    dls = digits_lt(bs=64, seed=seed)
    def part(dl):
        batches = zip(*dl.new(shuffle=False, drop_last=False))
        x,y = (torch.cat([o.as_subclass(torch.Tensor) for o in part]) for part in batches)
        return x-.5,y.numpy()
    return part(dls.train),part(dls.valid)

def fashion_parts(seed):
    "Training images with a long tail and balanced test images (N,3,28,28), with their labels"
    def part(name, counts):
        x,y = read_split(name)
        idxs = tail_idxs(y, counts, seed)
        return x[idxs].repeat(1, 3, 1, 1),y[idxs]
    return part('train', tail_counts(500, 10, 100)),part('t10k', [100]*10)

class AugmentColour(Augment):
    "The same for images of three equal channels"
    def before_batch(self):
        self.learn.xb = (self.x[:,:1],)
        super().before_batch()
        self.learn.xb = (self.x.repeat(1, 3, 1, 1),)

data_sets = {'digits': (digit_parts,15), 'Fashion-MNIST': (fashion_parts,6)}
methods = {'plain': lambda: [], 'Balanced-MixUp 0.2': lambda: [BalancedMixUp(.2)]}

def scores(parts, epochs, method, bs, lr, mom, wd, seed):
    "Balanced accuracy and MCC of the last epoch, in percent"
    set_seed(seed)
    train,valid = (Tensors(*o) for o in parts)
    dls = DataLoaders(DataLoader(train, bs=bs, shuffle=True, drop_last=True), DataLoader(valid, bs=250))
    learn = Learner(dls, small_net(10), CrossEntropyLossFlat(), opt_func=partial(SGD, mom=mom), wd=wd, moms=(mom,)*3,
                    metrics=imbalance_metrics(), cbs=AugmentColour())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr, cbs=methods[method]())
    row = dict(zip(learn.recorder.metric_names[1:-1], learn.recorder.values[-1]))
    return dict(balanced_acc=round(100*row['balanced_acc'], 2), mcc=round(100*row['mcc'], 2))

@call_parse
def main(
    out:Path=None, # Folder of tables. Default: nothing is written
    quick:store_true=False # Two recipes, one epoch?
):
    "Compare recipes, and print the mean over seeds"
    torch.set_num_threads(1)
    grid = [dict(bs=bs, lr=lr, mom=.9, wd=.01) for bs,lr in itertools.product((8,32), (.03,.1,.3))]
    grid = [dict(bs=8, lr=.01, mom=0., wd=0.), *grid, *(dict(bs=8, lr=.1, mom=.9, wd=wd) for wd in (0.,.001,.1))]
    seeds = (0,1)
    if quick: grid,seeds = grid[:2],(0,)
    rows = []
    for (name,(make,epochs)),seed in itertools.product(data_sets.items(), seeds):
        parts = make(seed)
        for recipe,method in itertools.product(grid, methods):
            start = time.perf_counter()
            got = scores(parts, 1 if quick else epochs, method, **recipe, seed=seed)
            rows.append(dict(data=name, **recipe, method=method, seed=seed, **got))
            print(*rows[-1].values(), f'{time.perf_counter()-start:.1f} s', flush=True)
    write_table(rows, out, 'recipes')
    df = pd.DataFrame(rows)
    print(df.pivot_table('balanced_acc', ['bs','lr','mom','wd'], ['data','method'], sort=False).round(1).to_string())
