"""Drawing items by class, and reading the labels that this needs: ours beside NumPy's and fastai's.

    python tests/benchmarks/draws.py --out FOLDER

Measured in one run, in turns, are seconds for the same work done two ways; shown are the medians, and how many times
as fast ours is: the median over all turns, and the least to the most of them.

- Draws: n indices out of n items in 1,000 classes with a long tail, every class equally often, by `ClassSampler.draw`
  and by `np.random.choice(n, n, p=...)`, for which the weights of the items are there already, as are our classes.
  The aim is 15 times as fast at ten million. What a process needs at its peak that makes our sampler and draws, its
  labels and all imports included, is measured in a process of its own, on Linux; the aim is 1 GB.
- Epochs: `get_idxs()`, a list, of a loader of `dls.weighted('class')` and of fastai's `WeightedDL`, which is the
  above and the change into a list.
- Labels of 100,000 items: `train_labels` and fastai's own way through the pipeline of targets, item by item, for
  every usual way to say what the labels are. Both give the same. The aim is half a second, whichever it is.

With `--quick` all of it is small, takes seconds, and has no aims. Otherwise the script ends with an error where an
aim is missed. `--out` keeps the figures in a table, `draws.csv`."""
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from common import machine, timed, write_table
from fastai.callback.data import WeightedDL
from fastai.vision.all import (
    Categorize,
    CategoryBlock,
    ColReader,
    DataBlock,
    DataLoaders,
    Datasets,
    IndexSplitter,
    ItemGetter,
    RegexLabeller,
    TfmdDL,
    TransformBlock,
    noop,
    parent_label,
)
from fastcore.script import call_parse, store_true
from PIL import Image

import fastai_balmix.loaders.weighted  # noqa: F401 # patches `DataLoaders.weighted`
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.loaders.draws import ClassSampler
from fastai_balmix.loaders.labels import train_labels


def tail_labels(n, k=1000):
    "Classes of `n` items, the most frequent a hundred times as frequent as the rarest, each with an item at least"
    p = 100.**-np.linspace(0, 1, k)
    drawn = np.random.default_rng(1).choice(k, n-k, p=p/p.sum())
    return np.random.default_rng(0).permutation(np.concatenate([np.arange(k), drawn]))

# In a process of its own, with the imports that drawing needs and no others
needs = """
import sys
from pathlib import Path
import numpy as np
from fastai_balmix.loaders.draws import ClassSampler
n = int(sys.argv[1])
# Not by `getrusage`, which starts from what the parent process had
def peak(): return int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])/1024
start = peak()
y = np.random.default_rng(0).integers(1000, size=n)
made = peak()
ClassSampler(y, 'class').draw(n, np.random.default_rng(0))
print(start, made, peak())"""

def peak(n):
    "MB that a process needs at its peak: after imports, after labels were made, after a sampler was made and used"
    res = subprocess.run([sys.executable, '-c', needs, str(n)], check=True, capture_output=True, text=True)
    return map(float, res.stdout.split())

def race(what, n, ours, other, repeats, same):
    "A row of the table: seconds of both ways, in turns"
    secs = []
    for _ in range(repeats):
        (a,x),(b,y) = timed(ours),timed(other)
        same(x, y)
        secs.append((a,b))
    ratios = [b/a for a,b in secs]
    ours,other = zip(*secs)
    row = dict(what=what, n=n, ours_s=median(ours), other_s=median(other), ratio=median(ratios),
               spread=f'{min(ratios):.1f} to {max(ratios):.1f}')
    seconds = f"{row['ours_s']:10.4f}{row['other_s']:10.4f}"
    print(f"{what:44}{n:12,}{seconds}{row['ratio']:9.1f}   {row['spread']}", flush=True)
    return row

def draws(n, repeats):
    "`ClassSampler.draw` and `np.random.choice`"
    y = tail_labels(n)
    sampler,rng = ClassSampler(y, 'class'),np.random.default_rng(0)
    p = (sampler.probs/sampler.counts)[y]
    p /= p.sum()
    sampler.draw(n, rng) # the first call of all takes longer
    def same(*idxs):
        for i in idxs: assert len(i)==n and abs((y[i]<500).mean()-.5) < 5*(.25/n)**.5
    def ours(): return sampler.draw(n, rng)
    def other(): return np.random.choice(n, n, p=p)
    return race('draws: np.random.choice', n, ours, other, repeats, same)

class Targets:
    "Items that are never opened"
    def __init__(self, targets): self.targets = targets
    def __len__(self): return len(self.targets)
    def __getitem__(self, i): raise AssertionError('an item was opened')

def epochs(n, repeats):
    "`get_idxs` of our weighted loader and of fastai's"
    y = tail_labels(n)
    ds = Targets(y)
    dls = DataLoaders(TfmdDL(ds, bs=64, shuffle=True, num_workers=0), TfmdDL(ds, bs=64, num_workers=0))
    ours = dls.weighted('class', seed=0).train
    theirs = WeightedDL(ds, bs=64, wgts=1/np.bincount(y)[y], shuffle=True, num_workers=0)
    ours.get_idxs() # makes the sampler
    def same(*idxs):
        for i in idxs: assert type(i) is list and len(i)==n
    return race('epochs: WeightedDL.get_idxs', n, ours.get_idxs, theirs.get_idxs, repeats, same)

def forms(n):
    "Training sets of `n` items, by how their labels are said"
    k = 50
    names = [f'class_{i*i%k:02}' for i in range(n+1)]
    # New ones for each form, as a path keeps its text once it was asked for
    def paths(): return [Path(f'images/train/{o}/{o}_{i}.jpg') for i,o in enumerate(names)]
    def block(items, **kwargs):
        blocks = TransformBlock,CategoryBlock
        return DataBlock(blocks, splitter=IndexSplitter([n]), **kwargs).datasets(items).train
    df = pd.DataFrame(dict(path=[str(o) for o in paths()], label=names))
    yield 'parent_label', lambda: block(paths(), get_y=parent_label)
    yield 'RegexLabeller', lambda: block(paths(), get_y=RegexLabeller(r'/(\w+)_\d+\.jpg$'))
    yield 'a lambda', lambda: block(paths(), get_y=lambda o: o.name.rpartition('_')[0])
    yield 'an annotated function', lambda: block(paths(), get_y=annotated)
    yield 'ItemGetter, pairs', lambda: block(list(zip(paths(), names)), getters=[ItemGetter(0),ItemGetter(1)])
    yield 'ColReader, by name', lambda: block(df, get_x=ColReader('path'), get_y=ColReader('label'))
    aged = df.assign(age=1.5)
    yield 'ColReader, by number beside numbers', lambda: block(aged, get_x=ColReader(0), get_y=ColReader(1))
    yield 'Datasets', lambda: Datasets(paths()[:n], [[noop],[parent_label,Categorize()]])
    yield 'ImageData.dataloaders', lambda: image_data(df, n)

def annotated(o:Path)->str: return o.parent.name

def image_data(df, n):
    split = ['train']*n+['valid']
    data = ImageData(df.assign(split=split), sorted({*df.label}), images=lambda p: Image.new('RGB', (1,1)))
    return data.dataloaders(size=None, num_workers=0).train_ds

def labels(n, repeats):
    "`train_labels` and fastai's route"
    for what,make in forms(n):
        ds = make()
        def ours(): return train_labels(TfmdDL(ds, bs=64, num_workers=0))
        def fastais(): return np.array([int(o) for o in ds.tls[-1]])
        yield race(f'labels: {what}', n, ours, fastais, repeats, np.testing.assert_array_equal)

@call_parse
def main(
    quick:store_true=False, # Small sizes, seconds in all?
    out:Path=None # Folder for `draws.csv`. Default: none is written.
):
    "Time draws and labels, each two ways"
    print(f"{machine()}\n\n{'against':44}{'n':>12}{'ours, s':>10}{'other, s':>10}{'times':>9}   least to most")
    sizes = [(10**5,5)] if quick else [(10**5,5),(10**6,5),(10**7,3)]
    rows = [draws(n, k) for n,k in sizes]
    rows.append(epochs(10**4 if quick else 10**6, 5))
    rows += labels(2000 if quick else 10**5, 5)
    n = sizes[-1][0]
    most = 0
    if Path('/proc/self/status').exists():
        imports,made,most = peak(n)
        print(f'\npeak memory of a process with {n:,} draws: {most:,.0f} MB, '
              f'of which {imports:,.0f} after imports and {made:,.0f} with labels')
    write_table(rows, out, 'draws')
    if quick: return
    slow = [o['what'] for o in rows if o['what'].startswith('labels') and o['ours_s']>=.5]
    missed = ['speed of draws']*(rows[2]['ratio']<15) + ['memory']*(most>=1000) + slow
    if missed: sys.exit(f"missed: {', '.join(missed)}")
