"""What a loader costs: prepared images against files, and `ImageData.dataloaders` against fastai's own loaders.

    python tests/benchmarks/loading.py

| row | work | measured | against | aim |
| --- | --- | --- | --- | --- |
| a | JPEG of 512 pixels, at 224 | prepared images | fastai's loader, equal workers | 0.10 |
| b | JPEG photographs of 4,000 × 3,000, at 224 | the same | the same | 0.02 |
| c | PNG files of 64 pixels, at 32 | the same | the same | 0.25 |
| d | prepared images at 224, bytes | copying as many bytes | the loader, one process | 0.30 or more |
| e | prepared images at 224 | this process | four workers | 1.00 |
| f | JPEG of 512 pixels, tiny net, plain epoch | `ImageData.dataloaders` | `ImageDataLoaders` | 1.05 |

Rows a to c load only; nothing is trained. Images are prepared before the clock starts, on disk and by all cores, so
that a row compares the second use of an image with opening it again. Both loaders end with fastai's
`IntToFloatTensor`, as they do by default, and shuffle by the same seed. Each row is measured without workers and with
two on either side; prepared images start none, whatever they are told. Row e shows why: there four workers are made
to copy the batches and send them.

Row d says what share of the machine's speed of copying a loader reaches that has nothing else to do: its ratio is the
time of copying over that of loading, larger is better. Copies are made batch by batch into new memory, as the loader
makes its batches; the images lie in memory in both cases. In row f the files are opened, decoded and resized by both,
with two workers, and a network is trained on means of 4 × 4 pixels: what differs is the way from a path to a tensor.

Variants take turns, one epoch each, A B A B …, after an epoch that warms each up. A ratio is taken within each round;
shown are the median over rounds, the smallest and the largest. Beside the time stands the work: the same ratio of
processor seconds, of the main process and its workers together, which other programs on the machine hardly stretch.
An epoch that took no measurable processor time counts as 10 ms.

The files are parts of scikit-learn's two photographs, enlarged, with grain, as in `epochs.py`. `--quick` uses fewer
and smaller images and two rounds, and proves nothing but that the script runs. The script ends with an error where an
aim is missed."""
import io
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import machine, write_table
from epochs import Fit, K, rounds, spent, tail
from fastcore.script import call_parse, store_true
from PIL import Image
from sklearn.datasets import load_sample_images

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.vision.all import *

from fastai_balmix.datasets.longtail import small_net
from fastai_balmix.datasets.prepared import prepare
from fastai_balmix.datasets.table import ImageData

# Data

def part_of_a_photograph(rng, width, height, **saving):
    "An enlarged part of a photograph, with grain, as the bytes of a file"
    sources = load_sample_images().images
    im = Image.fromarray(sources[rng.integers(len(sources))])
    side = rng.integers(160, 320)
    x,y = (int(rng.integers(0, d-side+1)) for d in im.size)
    part = im.resize((width,height), Image.BICUBIC, box=(x,y,x+int(side),y+int(side*height/width)))
    pix = np.asarray(part, np.float32) + rng.normal(0, 7, (height,width,1))
    f = io.BytesIO()
    Image.fromarray(pix.clip(0,255).astype(np.uint8)).save(f, **saving)
    return f.getvalue()

def write_data(folder, n, width, height, n_drawn=50, **saving):
    "Long-tailed data of `n` files or a few more, of which no more than `n_drawn` differ"
    folder.mkdir()
    rng,labels = np.random.default_rng(0),tail(n)
    drawn = [part_of_a_photograph(rng, width, height, **saving) for _ in range(min(n, n_drawn))]
    suffix = saving['format'].lower()
    names = [f'{i}.{suffix}' for i in range(len(labels))]
    for i,o in enumerate(names): (folder/o).write_bytes(drawn[i%len(drawn)])
    # one image is for validation, which fastai needs
    df = pd.DataFrame(dict(path=names, label=[str(k) for k in labels], split=['valid']+['train']*(len(names)-1)))
    kilobytes = np.mean([len(o) for o in drawn])/1000
    print(f'{len(names):,} files of {width}×{height} pixels, {kilobytes:.0f} kB on average')
    return ImageData(df, [str(k) for k in range(K)], root=folder)

def of_fastai(data, size, bs, num_workers):
    "fastai's own loaders of the same files"
    df = data.df.assign(is_valid=data.df.split=='valid')
    dls = ImageDataLoaders.from_df(df, data.root, fn_col='path', label_col='label', valid_col='is_valid', bs=bs,
                                   item_tfms=Resize(size, method='squish'), num_workers=num_workers)
    dls.train.rng = random.Random(0)
    return dls

def ours(data, size, bs, num_workers, pictures=None):
    return data.dataloaders(size=size, bs=bs, num_workers=num_workers, seed=0, pictures=pictures)

# What is timed

def loaded(dl):
    "Seconds and processor seconds of one epoch of a loader, (2,)"
    return spent(lambda: [None for _ in dl])

def copied(pictures, rows, bs):
    "The same of copying as many bytes, in batches"
    x = pictures.gather(rows)
    def copy():
        for i in range(0, len(x), bs): x[i:i+bs].clone()
    return spent(copy)

class Row:
    "A ratio of times, in `n` rounds"
    def __init__(self, name, work, measured, against, secs, target, larger=False):
        self.name,self.work,self.measured,self.against,self.target = name,work,measured,against,target
        self.larger = larger # Is a larger ratio better?
        first,second = (np.maximum(secs[o], [[0],[.01]]) for o in (measured,against))
        ratios,work = first/second
        self.ratio,self.low,self.high,self.cpu = np.median(ratios),ratios.min(),ratios.max(),np.median(work)
        self.repetitions,self.seconds = len(ratios),np.median(second[0])

    @property
    def met(self): return self.ratio>=self.target if self.larger else self.ratio<=self.target

    def row(self):
        nums = {k: round(float(getattr(self, k)), 4) for k in ('ratio','low','high','target','cpu')}
        return dict(row=self.name, work=self.work, measured=self.measured, against=self.against, **nums,
                    larger=self.larger, repetitions=self.repetitions)

    def __str__(self):
        met = 'met' if self.met else 'MISSED'
        spread = f'({self.low:.3f} to {self.high:.3f}, {self.repetitions} rounds)'
        return (f'{self.name}  {self.work}: {self.measured} against {self.against} {self.ratio:.3f} {spread}, aim '
                f'{self.target:.2f} {met}; work {self.cpu:.3f} ({self.seconds:.2f} s {self.against})')

# The rows

def file_row(name, work, data, size, aim, n, folder):
    "Rows a to c, for either number of workers"
    pictures,res = prepare(data, size, folder=folder, progress=False),[]
    for num_workers in 0,2:
        dls = dict(prepared=ours(data, size, 16, num_workers, pictures), fastai=of_fastai(data, size, 16, num_workers))
        secs = rounds({k: lambda dl=o.train: loaded(dl) for k,o in dls.items()}, n)
        workers = f'{num_workers or "no"} workers'
        res.append(Row(name, f'{work}, {workers}', 'prepared', 'fastai', secs, aim))
    return res

def copy_rows(data, size, n, folder):
    "Rows d and e"
    pictures = prepare(data, size, folder=folder, progress=False)
    rows = pictures.rows([source for source,_ in data.items()])
    def loader(num_workers, **kwargs): return ours(data, size, 64, num_workers, pictures).train.new(**kwargs)
    plain = loader(0, after_batch=[])
    order = np.asarray(plain.get_idxs())
    secs = rounds({'copying':lambda: copied(pictures, rows[order], 64), 'loading':lambda: loaded(plain)}, 3*n)
    of_bytes = Row('d', f'bytes at {size}', 'copying', 'loading', secs, .3, larger=True)
    by_workers = prepare(data, size, folder=folder, progress=False)
    by_workers.made = lambda rows: False # workers are for images that have to be opened
    dls = {'this process':loader(0), '4 workers':ours(data, size, 64, 4, by_workers).train}
    secs = rounds({k: lambda dl=o: loaded(dl) for k,o in dls.items()}, n)
    return [of_bytes, Row('e', f'prepared images at {size}', 'this process', '4 workers', secs, 1.)]

def epoch_row(data, size, n):
    "Row f"
    def net(): return nn.Sequential(nn.AvgPool2d(4), small_net(K))
    fits = {'ImageData':Fit(ours(data, size, 16, 2), net), 'ImageDataLoaders':Fit(of_fastai(data, size, 16, 2), net)}
    return [Row('f', 'plain epoch from files', 'ImageData', 'ImageDataLoaders', rounds(fits, n), 1.05)]

@call_parse
def main(
    quick:store_true, # Fewer and smaller images, two rounds: does the script run?
    only:str='a,b,c,d,e,f', # Rows, with commas between
    repeats:int=5, # Rounds; row d takes three times as many
    out:Path=None # Folder for `loading.csv`. Default: nothing is written.
):
    "Time loaders against those of fastai"
    only = only.split(',')
    if quick: repeats = 2
    torch.set_num_threads(1) # a loader is timed, not how many threads turn bytes into floats
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        def store(name):
            (top/f'store of {name}').mkdir()
            return top/f'store of {name}'
        def add(new):
            for o in new: print(o, flush=True)
            rows.extend(o for o in new if o.name in only)
        jpeg = dict(format='JPEG', quality=90)
        size,side = (64,128) if quick else (224,512)
        if {*only} & {*'af'}: files = write_data(top/'jpeg', 130 if quick else 600, side, side, **jpeg)
        if 'a' in only: add(file_row('a', 'JPEG of 512', files, size, .1, repeats, store('a')))
        if 'b' in only:
            photographs = write_data(top/'photographs', 130 if quick else 48,
                                     *((200,150) if quick else (4000,3000)), n_drawn=8, **jpeg)
            add(file_row('b', 'photographs', photographs, size, .02, repeats, store('b')))
        if 'c' in only:
            small = write_data(top/'png', 130 if quick else 3000, 64, 64, format='PNG')
            add(file_row('c', 'PNG of 64', small, 32, .25, repeats, store('c')))
        if {*only} & {*'de'}:
            many = write_data(top/'many', 200 if quick else 1000, size, size, **jpeg)
            add(copy_rows(many, size, repeats, store('de')))
        if 'f' in only: add(epoch_row(files, size, repeats))
    write_table([o.row() for o in rows], out, 'loading')
    missed = [f'{o.name} ({o.work})' for o in rows if not o.met]
    if missed and not quick: sys.exit(f"missed: {', '.join(missed)}")
