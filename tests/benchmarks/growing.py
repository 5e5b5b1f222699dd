"""What each part costs as data grow: time and memory over three decades of N items, K classes, and batches of B.

    python tests/benchmarks/growing.py --out FOLDER

Each part runs at sizes a factor of ten apart, five times each, the median counts. `slope` is that of a straight line
through the logarithms of size and seconds, fitted to the sizes at which a call takes half a millisecond or more: 1
means that ten times as many take ten times as long, 0 that size does not matter. Memory is what NumPy and Python have
asked for at the peak, beyond what was there before.

- N: reading the labels of a `DataBlock`, by `train_labels`; preparing class-balanced draws, and drawing N; the
  indices of an epoch by fastai's shuffle, and with partners and λ by `BalancedMixUp`'s loader; the table that a cache
  keeps of its items, in a file.
- K: preparing a sampler of 100,000 items and drawing as many; MCC, balanced accuracy, macro-F1, quadratic κ and
  Kendall's τ-b from a K×K matrix; a matrix of 100,000 predictions.
- B: splitting a batch of B pairs of 3×64×64 and mixing it, with one λ and with one for each pair.
- Storage: an epoch of 240 items of which each takes 5 ms to arrive, as from a network, with 2 workers: plain,
  balanced, and with everything kept from the second epoch on, as ratios to the plain one.

With `--quick` the largest size is left out twice. `--out` keeps the figures in `growing.csv`."""
import time
import tracemalloc
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import machine, timed, write_table
from fastai.vision.all import Categorize, DataLoader, DataLoaders, Datasets
from fastcore.script import call_parse, store_true

from fastai_balmix.all import *
from fastai_balmix.loaders.pairing import mix_pairs, pair_loader, split_pairs
from fastai_balmix.loaders.store import Store


def labels(n, k=10): return np.random.default_rng(0).permutation(np.arange(n)%k)

def sized(cls, *args): # a fresh object for each call, since labels and samplers are kept
    return lambda: cls(*args)

def label_of(i): return i%10

def block(n):
    data = Datasets(range(n), [[], [label_of,Categorize(vocab=list(range(10)))]])
    return data.dataloaders(bs=64, num_workers=0).train

class Items:
    def __init__(self, n): self.targets = labels(n)
    def __len__(self): return len(self.targets)
    def __getitem__(self, i): return torch.zeros(1),int(self.targets[i])

def loader(n): return DataLoader(Items(n), bs=64, shuffle=True)

def paired(n):
    p = pair_loader(loader(n), .2, rng=np.random.default_rng(0))
    return p

def matrix(k):
    rng = np.random.default_rng(0)
    return rng.integers(0, 50, (k,k)) + np.diag(rng.integers(50, 500, k))

def scores(cm): return mcc(cm),balanced_acc(cm),macro_f1(cm),quad_kappa(cm),kendall_tau(cm)

def predictions(k):
    rng = np.random.default_rng(0)
    return rng.integers(0, k, 100_000),rng.integers(0, k, 100_000)

def pairs(b): return torch.rand(2*b,3,64,64)

def per_batch(x): return mix_pairs(*split_pairs(x, .3), .3)

def per_pair(x):
    lam = torch.full((len(x)//2,), .3)
    return mix_pairs(*split_pairs(x, lam), lam)

# grows with, part, sizes, what is made beforehand, what is measured
parts = [
    ('N', 'labels of a DataBlock', (10**3,10**4,10**5,10**6), block, train_labels),
    ('N', 'prepare balanced draws', (10**4,10**5,10**6,10**7), labels, ClassSampler),
    ('N', 'draw N items', (10**4,10**5,10**6,10**7), lambda n: ClassSampler(labels(n)),
     lambda s: s.draw(len(s.by_class), np.random.default_rng(0))),
    ('N', "an epoch's indices, plain shuffle", (10**3,10**4,10**5,10**6), loader, lambda dl: dl.get_idxs()),
    ('N', "an epoch's indices, with partners and λ", (10**3,10**4,10**5,10**6), paired, lambda dl: dl.get_idxs()),
    ('N', 'table of a cache', (10**4,10**5,10**6,10**7), lambda n: np.full(n, 1),
     lambda o: Store(Store.overhead(len(o)), o)),
    ('K', 'prepare draws and draw, 100,000 items', (10,100,1000,10**4), lambda k: labels(10**5, k),
     lambda y: ClassSampler(y).draw(len(y), np.random.default_rng(0))),
    ('K', 'five scores of a matrix', (3,10,100,1000), matrix, scores),
    ('K', 'matrix of 100,000 predictions', (3,10,100,1000), predictions, lambda o: confusion(*o, int(o[0].max())+1)),
    ('B', 'split and mix, one λ', (1,10,100,1000), pairs, per_batch),
    ('B', 'split and mix, λ for each pair', (1,10,100,1000), pairs, per_pair)]

def measure(kind, part, sizes, make, f, repeats):
    rows = []
    for n in sizes:
        secs = []
        for _ in range(repeats):
            x = make(n) # anew, since labels and samplers are kept with a loader
            secs.append(timed(lambda: f(x))[0])
        x = make(n)
        tracemalloc.start()
        f(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append(dict(grows=kind, part=part, size=n, seconds=median(secs), low=min(secs), high=max(secs),
                         megabytes=peak/1e6))
    used = [r for r in rows if r['seconds']>=5e-4]
    slope = np.nan
    if len(used)>1: slope = np.polyfit(np.log([r['size'] for r in used]), np.log([r['seconds'] for r in used]), 1)[0]
    figures = [f"{r['size']:>10,}: {1000*r['seconds']:9.2f} ms {r['megabytes']:7.1f} MB" for r in rows]
    print(f"{kind}  {part:42}{'  '.join(figures)}  slope {slope:.2f}", flush=True)
    return [dict(r, slope=slope) for r in rows]

class Remote:
    "Items that take a while to arrive"
    def __init__(self, n, delay): self.targets,self.delay = labels(n),delay
    def __len__(self): return len(self.targets)
    def __getitem__(self, i):
        time.sleep(self.delay)
        return torch.zeros(3,32,32),int(self.targets[i])

def storage(repeats, n=240, delay=.005):
    def make(): return DataLoader(Remote(n, delay), bs=16, shuffle=True, num_workers=2)
    plain,kept = make(),DataLoaders(make(), make()).cached('100MB').train
    def paired(dl, alpha): return pair_loader(dl, alpha, rng=np.random.default_rng(np.random.randint(2**31)))
    variants = {'plain': lambda: plain}
    for alpha in .1,.2,.3: variants[f'Balanced-MixUp {alpha:g}'] = partial(paired, plain, alpha)
    variants['everything kept'] = lambda: kept
    variants['everything kept, Balanced-MixUp 0.2'] = partial(paired, kept, .2)
    for f in variants.values(): [*f()] # so that it is kept
    np.random.seed(0)
    secs = {k: [] for k in variants}
    for _ in range(repeats):
        for k,f in variants.items():
            dl = f()
            secs[k].append(timed(lambda: [*dl])[0])
    rows = []
    for k,v in secs.items():
        ratios = [a/b for a,b in zip(v, secs['plain'])]
        rows.append(dict(grows='storage', part=k, size=n, seconds=median(v), low=min(v), high=max(v), megabytes=np.nan,
                         slope=np.nan, ratio=median(ratios)))
        spread = f'({min(ratios):.2f} to {max(ratios):.2f})'
        print(f'storage  {k:42}{median(v):8.2f} s  {median(ratios):6.2f} times plain {spread}', flush=True)
    return rows

@call_parse
def main(
    quick:store_true, # Small sizes only
    out:Path=None # Folder for `growing.csv`
):
    "Measure how the parts grow"
    torch.set_num_threads(1)
    print(machine())
    rows = []
    repeats = 2 if quick else 5
    for kind,part,sizes,make,f in parts: rows += measure(kind, part, sizes[:2] if quick else sizes, make, f, repeats)
    rows += storage(2, 48) if quick else storage(7)
    write_table(rows, out, 'growing')
