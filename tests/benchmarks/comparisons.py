"""What files cost a comparison: training on prepared images against training on tensors that lie in memory already.

    python tests/benchmarks/comparisons.py

| row | work | aim |
| --- | --- | --- |
| a | an epoch of Balanced-MixUp, JPEG of 512 pixels at 224 | 1.15 |
| b | the same, photographs of 4,000 × 3,000 at 224 | 1.15 |
| c | the same, PNG of 64 pixels at 32 | 1.15 |
| d | 4 methods × 3 folds × 5 epochs, JPEG of 512 pixels at 224, the store made on the way | 1.30 |
| e | the same, PNG of 64 pixels at 32 | 1.30 |

Learners are those of `compare`, with the recipe for the small network. In rows a to c the store is there, and the
measured epoch is one of training; both variants take turns, and what is shown is the median of ratios within a round.
The other variant has the same loaders, whose images come from one tensor in ordinary memory. Rows d and e are whole
calls of `compare`, one after the other. The measured one begins with files and no store. The other begins with data
whose images lie in an array at the size of training. Beside the time stands the work, in processor seconds of all
processes. In rows d and e the network sees means of 4 × 4 pixels where images have 224, so that opening files counts.

`--quick` uses fewer and smaller images, and proves nothing but that the script runs. The script ends with an error
where an aim is missed."""
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from common import machine, write_table
from epochs import rounds, spent
from fastcore.script import call_parse, store_true
from loading import Row, write_data

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.vision.all import *

from fastai_balmix.compare.config import TrainConfig
from fastai_balmix.compare.fitting import learner_of
from fastai_balmix.compare.plan import compare
from fastai_balmix.compare.runs import Run
from fastai_balmix.datasets.images import ArrayImages
from fastai_balmix.datasets.longtail import small_net
from fastai_balmix.datasets.prepared import prepare
from fastai_balmix.datasets.table import ImageData


class InMemory:
    "Prepared images as one tensor of ordinary memory"
    def __init__(self, pictures, n):
        self.pictures,self.x = pictures,pictures.gather(np.arange(n))

    def __getattr__(self, name): return getattr(self.pictures, name)
    def gather(self, rows, out=None): return torch.index_select(self.x, 0, torch.as_tensor(rows, dtype=torch.int64))

class Epochs:
    "Epochs of training of one run of a comparison, one a call"
    def __init__(self, run, images=None):
        learn,training = learner_of(run, dict(run.parts(), choose=run.parts()['select']))
        if images is not None: learn.dls.train.dataset.tls[0].tfms.fs[-1].pictures = images
        learn.remove_cbs([o for o in learn.cbs if isinstance(o, ProgressCallback)])
        learn.add_cbs(training.cbs)
        learn.create_opt()
        learn.n_epoch,learn.epoch = 10**6,-1
        learn('before_fit')
        self.learn = learn

    def __call__(self):
        self.learn.epoch += 1
        self.learn('before_epoch')
        return spent(self.learn._do_epoch_train)

def in_folds(data):
    "The same images in three folds, as many of each class: how rare one is does not matter to speed"
    df = data.df.drop(columns='split').assign(label=[data.vocab[i%len(data.vocab)] for i in range(len(data))])
    return ImageData(df, data.vocab, root=data.root).with_folds(3, seed=0)

def epoch_row(name, work, data, size, n, folder):
    "Rows a to c"
    pictures = prepare(data, size, folder=folder, progress=False)
    run = Run(data, 'balmix_0.2', 'small', 1, 0, TrainConfig(size=size, pretrained=False), folder/'runs')
    run.cache = str(folder)
    variants = {'prepared':Epochs(run), 'tensors in memory':Epochs(run, InMemory(pictures, len(data)))}
    return Row(name, work, 'prepared', 'tensors in memory', rounds(variants, n), 1.15)

def pooled_net(n_classes): return nn.Sequential(nn.AvgPool2d(4), small_net(n_classes))

def stacked(x): return dict(images=x)

def in_arrays(data, size, folder):
    "The same data, with images of `size` in an array"
    pictures = prepare(data, size, folder=folder, progress=False)
    x = pictures.gather(pictures.rows([source for source,_ in data.items()])).permute(0, 2, 3, 1).numpy().copy()
    df = data.df.assign(path=[f'images/{i}' for i in range(len(x))])
    return ImageData(df, data.vocab, images=ArrayImages(stacked, x))

def whole_row(name, work, data, size, arch, folder, quick):
    "Rows d and e"
    arrays = in_arrays(data, size, folder/'of arrays')
    few,epochs = ['instance','balmix_0.2'],1 if quick else 5
    def comparison(data, out, cache='auto', methods=few if quick else [*few,'sqrt','class'], epochs=epochs):
        return compare(data, methods, arch, epochs=epochs, out=folder/out, cache=cache, show=False, size=size,
                       pretrained=False)
    comparison(arrays, 'first', methods=few[:1], epochs=1) # what is slow once
    before = spent(lambda: comparison(arrays, 'arrays'))
    secs = {'from files':spent(lambda: comparison(data, 'files', folder/'store')), 'tensors in memory':before}
    return Row(name, work, 'from files', 'tensors in memory', {k: o[:,None] for k,o in secs.items()}, 1.3)

@call_parse
def main(
    quick:store_true, # Fewer and smaller images: does the script run?
    only:str='a,b,c,d,e', # Rows, with commas between
    repeats:int=5, # Rounds of rows a to c
    out:Path=None # Folder for `comparisons.csv`. Default: nothing is written.
):
    "Time comparisons of files against those of tensors"
    only = only.split(',')
    if quick: repeats = 2
    torch.set_num_threads(1) # as in runs of the small network
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        def room(name):
            (top/name).mkdir()
            return top/name
        def add(new):
            print(new, flush=True)
            rows.append(new)
        jpeg = dict(format='JPEG', quality=90)
        size,side = (64,128) if quick else (224,512)
        if {*only} & {*'ad'}: files = in_folds(write_data(top/'jpeg', 130 if quick else 300, side, side, **jpeg))
        if {*only} & {*'ce'}: png = in_folds(write_data(top/'png', 130 if quick else 1500, 64, 64, format='PNG'))
        if 'a' in only: add(epoch_row('a', 'JPEG of 512', files, size, repeats, room('a')))
        if 'b' in only:
            sides = (200,150) if quick else (4000,3000)
            photographs = in_folds(write_data(top/'photographs', 130 if quick else 60, *sides, n_drawn=8, **jpeg))
            add(epoch_row('b', 'photographs', photographs, size, repeats, room('b')))
        if 'c' in only: add(epoch_row('c', 'PNG of 64', png, 32, repeats, room('c')))
        if 'd' in only: add(whole_row('d', 'comparison, JPEG of 512', files, size, pooled_net, room('d'), quick))
        if 'e' in only: add(whole_row('e', 'comparison, PNG of 64', png, 32, 'small', room('e'), quick))
    write_table([o.row() for o in rows], out, 'comparisons')
    missed = [f'{o.name} ({o.work})' for o in rows if not o.met]
    if missed and not quick: sys.exit(f"missed: {', '.join(missed)}")
