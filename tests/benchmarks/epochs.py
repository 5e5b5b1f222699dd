"""What Balanced-MixUp adds to an epoch: its time against that of a plain epoch of fastai, or of fastai's `MixUp`.

    python tests/benchmarks/epochs.py

| row | work | measured | against | aim |
| --- | --- | --- | --- | --- |
| a | JPEG files, `Resize(224, method='squish')` | α = 0.1, 0.2, 0.3 | plain | 1 + s·(1 - 255^(-α)) + 0.05 |
| b | the same | α = 0.2, a quarter of the items cached | plain, no cache | 1.05 |
| c | the same | α = 0.2, all items cached | plain, no cache | 0.60 |
| d | JPEG files, `RandomResizedCrop(224)` | α = 0.2, all files cached as decoded | plain, no cache | 1.00 |
| e | images in memory, `mobilenetv2_100` | α = 0.2 | plain | 1.05 |
| f | small images in memory, tiny net | α = 0.2 | `MixUp` | 1.00 |
| g | images on the GPU, ResNet-50 | α = 0.2 | `MixUp` | 1.00 |

Each row compares epochs of the same learner, loader and seeds within one process. Every variant is a fit of its own
that stays open: its first epoch warms it up (and fills its cache), and then the variants take turns, one epoch each,
A B C A B C …. An epoch is timed from the loader's start, workers included, to its last batch, without validation. A
ratio is taken within each round; shown are the median over rounds, the smallest and the largest.

Beside the time stands the work: the same ratio of processor seconds, of the main process and its workers together.
Other programs on the machine stretch the first and hardly the second. Where workers and network keep all cores busy,
as in rows a to d on two cores, both come to the same on a machine that is free.

The JPEG files are 2,000 of 512×512 pixels and 100 kB in ten classes with a long tail, 806 to 8 each: enlarged parts
of scikit-learn's two photographs with grain added, so that a byte costs to decode what it costs in a photograph. No
more than 250 are drawn, the others are copies. They are read by two workers in batches of 16, and lie in a temporary
folder.

s is the share of loading in the plain epoch: the time of an epoch of the same loader and workers that trains nothing
(batch transforms, which run in the main process, included) over that of the plain fit, in the same round. Where
workers and network share all cores, both times are work over cores, and s is loading's share of the work. Where cores
are left over, loading and computing overlap: s is 1 where loading binds, and else larger than what a second image can
add, so that the aim is then a generous one. On two cores even the small net of `balmix-demo` takes half the time at
224 pixels; `--pool 4` gives it the mean of each 4×4, as cheap as a network is beside its loader where there is a GPU.

How many batches get a partner is a matter of luck, a share of 0.67 ± 0.04 of 125 batches at α = 0.2. So that luck is
not measured, λ is drawn stratified here: one uniform number from each of as many equal parts of [0, 1) as an epoch
has batches, in random order. Each follows the distribution it always does, and each epoch has its share of mixed
batches to the nearest one or two; the share is shown.

`--quick` uses fewer and smaller images and two rounds, and proves nothing but that the script runs. `--profile`
prints instead where a plain and a mixed epoch spend the time of one core, without workers: what else runs on the
machine hardly matters to it. The script ends with an error where an aim is missed."""
import cProfile
import io
import os
import pstats
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import timm
import torch
from fastcore.script import call_parse, store_true
from PIL import Image
from sklearn.datasets import load_sample_images

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from fastai.vision.all import *
from common import machine, write_table
from fastai.callback.mixup import MixUp

import fastai_balmix.loaders.cache  # noqa: F401 # patches `DataLoaders.cached`
from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.datasets.longtail import small_net, tail_counts

K = 10

# Data

def tail(n):
    "`n` labels or a few more, a long tail of imbalance 100, in random order"
    counts = next(c for c in (tail_counts(m, K, 100) for m in range(1, n)) if c.sum()>=n)
    return np.random.default_rng(0).permutation(np.repeat(np.arange(K), counts)).tolist()

def photograph(rng, sources, size):
    "A part of a photograph, enlarged to `size`×`size` pixels, with grain, as the bytes of a JPEG file"
    im,s = sources[rng.integers(len(sources))],rng.integers(160, 428)
    x,y = (rng.integers(0, d-s+1) for d in im.size)
    part = im.resize((size,size), Image.BICUBIC, box=(x,y,x+s,y+s))
    pix = np.asarray(part, np.float32) + rng.normal(0, 7, (size,size,1))
    f = io.BytesIO()
    Image.fromarray(pix.clip(0,255).astype(np.uint8)).save(f, 'JPEG', quality=90)
    return f.getvalue()

def write_files(folder, n, size):
    "Long-tailed JPEG files `i_class.jpg`; their paths"
    rng,sources = np.random.default_rng(0),[Image.fromarray(o) for o in load_sample_images().images]
    drawn,res = [photograph(rng, sources, size) for _ in range(min(n, 250))],[]
    for i,k in enumerate(tail(n)):
        res.append(folder/f'{i}_{k}.jpg')
        res[-1].write_bytes(drawn[i%len(drawn)])
    kilobytes = np.mean([o.stat().st_size for o in res])/1000
    print(f'{len(res):,} files of {size}×{size} pixels, {kilobytes:.0f} kB on average')
    return res

def file_class(o): return int(o.stem.split('_')[1])

def file_loaders(files, tfm, num_workers=2, bs=16):
    labels = CategoryBlock(vocab=list(range(K)), sort=False)
    block = DataBlock((ImageBlock,labels), get_y=file_class, splitter=IndexSplitter([0]), item_tfms=tfm,
                      batch_tfms=Normalize.from_stats(*imagenet_stats))
    dls = block.dataloaders(files, bs=bs, num_workers=num_workers)
    dls.train.rng = random.Random(0)
    return dls

def memory_loaders(n, size, bs, device='cpu'):
    "Loaders of float images that are in memory already"
    g = torch.Generator().manual_seed(0)
    items = [(torch.randn(3, size, size, generator=g).to(device), torch.tensor(k, device=device)) for k in tail(n)]
    def loader(shuffle): return DataLoader(items, bs=bs, num_workers=0, shuffle=shuffle, device=torch.device(device))
    dls = DataLoaders(loader(True), loader(False))
    dls.train.rng = random.Random(0)
    return dls

# What is timed

class Stratified(np.random.Generator):
    "Uniform numbers of which `n` fall into `n` equal parts of [0, 1), one each, in random order"
    def random(self, n): return (self.permutation(n) + super().random(n))/n

class EvenMixUp(BalancedMixUp):
    "Balanced-MixUp with the expected share of mixed batches in every epoch"
    def _start(self, per_item):
        super()._start(per_item)
        self.rng = Stratified(np.random.PCG64(self.seed))

def clocks():
    if torch.cuda.is_available(): torch.cuda.synchronize()
    # Workers that have ended are children, with times of their own
    return np.array([time.perf_counter(), sum(os.times()[:4])])

def spent(f):
    start = clocks()
    f()
    return clocks()-start

class Fit:
    "A fit that stays open, one training epoch a call"
    def __init__(self, dls, make_net, cb=None):
        set_seed(0)
        self.learn = Learner(dls, make_net(), loss_func=CrossEntropyLossFlat(), lr=1e-3, opt_func=SGD,
                             cbs=[cb] if cb else None)
        self.learn.remove_cbs([o for o in self.learn.cbs if isinstance(o, ProgressCallback)])
        self.started,self.mixed = False,[]

    def __call__(self):
        "Seconds and processor seconds of one training epoch, (2,)"
        learn = self.learn
        if not self.started:
            learn.create_opt()
            learn.n_epoch,learn.epoch,self.started = 10**6,-1,True
            learn('before_fit')
        learn.epoch += 1
        learn('before_epoch')
        res = spent(learn._do_epoch_train)
        if hasattr(learn.dl, 'lams'): self.mixed.append((learn.dl.lams>0).mean())
        return res

def load_only(dls):
    "The same of one epoch of the training loader"
    return spent(lambda: [None for _ in dls.train])

def rounds(variants, n):
    "What each variant took in `n` rounds, (2,n) each: seconds, processor seconds; the first, warming round left out"
    secs = {k:[] for k in variants}
    for _ in range(n+1):
        for k,f in variants.items(): secs[k].append(f())
    return {k:np.array(v[1:]).T for k,v in secs.items()}

# The rows

def share(secs):
    "Loading's share of a plain epoch: of its time, of its work"
    return np.median(secs['loader']/secs['plain'], axis=1)

class Row:
    def __init__(self, name, work, alpha, secs, of, against, target, s=None, mixed=None):
        self.name,self.work,self.alpha,self.against = name,work,alpha,against
        ratios,work = secs[of]/secs[against]
        self.cpu,(self.target,self.cpu_target) = np.median(work),np.broadcast_to(target, 2)
        self.ratio,self.low,self.high,self.repetitions = np.median(ratios),ratios.min(),ratios.max(),len(ratios)
        self.s,self.mixed = None if s is None else s[0],mixed
        self.seconds = np.median(secs[against][0])

    def row(self):
        "What the table keeps"
        def rounded(v): return None if v is None else round(float(v), 4)
        nums = {k: rounded(getattr(self, k)) for k in ('ratio','low','high','target','cpu','cpu_target','s','mixed')}
        return dict(row=self.name, work=self.work, alpha=self.alpha, against=self.against, **nums,
                    repetitions=self.repetitions)

    def __str__(self):
        def met(value, aim): return 'met' if value<=aim else 'MISSED'
        more = [f'{self.seconds:.2f} s {self.against}']
        for name,value in ('s',self.s),('mixed',self.mixed):
            if value is not None: more.append(f'{name} {value:.2f}')
        spread = f'({self.low:.3f} to {self.high:.3f}, {self.repetitions} rounds)'
        time = f'{self.ratio:.3f} {spread}, aim {self.target:.3f} {met(self.ratio, self.target)}'
        work = f'{self.cpu:.3f}, aim {self.cpu_target:.3f} {met(self.cpu, self.cpu_target)}'
        return f"{self.name}  {self.work}, α = {self.alpha}: {time}; work {work} ({', '.join(more)})"

def even(alpha=.2): return EvenMixUp(alpha, seed=0)

def squish_rows(only, files, n, net):
    "Rows a to c, from the same plain epochs"
    def loaders(cache=None):
        res = file_loaders(files, Resize(224, method='squish'))
        return res.cached(cache) if cache else res
    fits = {'plain':Fit(loaders(), net)}
    if 'a' in only: fits |= {alpha:Fit(loaders(), net, even(alpha)) for alpha in (.1,.2,.3)}
    # Of each item the cache keeps the resized image, a byte for each number
    for row,size in ('b',len(files)//4*3*224**2),('c','4GB'):
        if row in only: fits[row] = Fit(loaders(size), net, even())
    just_load = loaders()
    secs = rounds({'loader':lambda: load_only(just_load), **fits}, n)
    s = share(secs)
    def row(name, work, alpha, of, target):
        return Row(name, work, alpha, secs, of, 'plain', target, s, np.mean(fits[of].mixed[1:]))
    alphas = [o for o in (.1,.2,.3) if o in fits]
    res = [row('a', 'squish, no cache', alpha, alpha, 1 + s*(1-255**-alpha) + .05) for alpha in alphas]
    for nm,work,target in ('b','squish, a quarter cached',1.05),('c','squish, all cached',.6):
        if nm not in fits: continue
        res.append(row(nm, work, .2, nm, target))
        print(f'cache of row {nm}: {fits[nm].learn.dls.cache_info()}')
    return res

def crop_row(files, n, net):
    def loaders(): return file_loaders(files, RandomResizedCrop(224))
    fits = {'plain':Fit(loaders(), net), 'd':Fit(loaders().cached('4GB'), net, even())}
    just_load = loaders()
    secs = rounds({'loader':lambda: load_only(just_load), **fits}, n)
    print(f"cache of row d: {fits['d'].learn.dls.cache_info()}")
    return [Row('d', 'random crops, all cached', .2, secs, 'd', 'plain', 1., share(secs), np.mean(fits['d'].mixed[1:]))]

def memory_row(name, work, make_dls, make_net, rival, target, n):
    rival_cb = MixUp() if rival=='MixUp' else None
    fits = {rival: Fit(make_dls(), make_net, rival_cb), name: Fit(make_dls(), make_net, even())}
    secs = rounds(fits, n)
    return [Row(name, work, .2, secs, name, rival, target, mixed=np.mean(fits[name].mixed[1:]))]

def net(): return small_net(K)
def mobilenet(): return timm.create_model('mobilenetv2_100', num_classes=K)
def resnet(): return timm.create_model('resnet50', num_classes=K).cuda()

def profiled(name, make_dls, make_net):
    "Print what a plain and a mixed epoch spend their time on"
    for kind,cb in ('plain',None),('mixed',even()):
        fit = Fit(make_dls(), make_net, cb)
        fit()
        start = time.thread_time()
        with cProfile.Profile(time.thread_time) as prof: fit()
        secs = time.thread_time()-start
        text = io.StringIO()
        pstats.Stats(prof, stream=text).sort_stats('tottime').print_stats(25)
        # Paths say more about the machine than about the work
        print(f'row {name}, {kind} epoch, {secs:.2f} s of one core')
        print(re.sub(r'/\S+/(\S+/\S+\.py)', r'\1', text.getvalue()))

@call_parse
def main(
    quick:store_true, # Fewer and smaller images, two rounds: does the script run?
    profile:store_true, # Print what binds, without workers, and nothing else
    only:str='a,b,c,d,e,f,g', # Rows, with commas between
    repeats:int=5, # Rounds; row f, whose epochs are short, takes five times as many
    images:int=2000, # JPEG files
    pool:int=1, # Rows a to d: side of the squares of pixels whose mean the network sees; larger, loading binds more
    threads:int=None, # Of PyTorch in the main process. Default: as many as it takes, but 1 in row f.
    out:Path=None # Folder for `epochs.csv`. Default: nothing is written.
):
    "Time Balanced-MixUp's epochs against plain ones"
    only = only.split(',')
    if quick: images,repeats,pool = 130,2,8
    if threads: torch.set_num_threads(threads)
    def wanted(*names): return [o for o in names if o in only]
    def light(): return nn.Sequential(nn.AvgPool2d(pool), net()) if pool>1 else net()
    def small(): return memory_loaders(400 if quick else 4000, 32, 64)
    def medium(): return memory_loaders(*((40,64) if quick else (256,224)), 16)
    print(machine())
    if 'g' in only and not torch.cuda.is_available():
        print('g  skipped: no GPU')
        only.remove('g')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if wanted('a','b','c','d'): files = write_files(Path(folder), images, 256 if quick else 512)
        if profile:
            torch.set_num_threads(1) # so that this thread's time is all there is
            def squish_loaders(): return file_loaders(files, Resize(224, method='squish'), num_workers=0)
            if wanted('a'): profiled('a', squish_loaders, light)
            if wanted('e'): profiled('e', medium, mobilenet)
            if wanted('f'): profiled('f', small, net)
            return
        def add(f, *args):
            new = f(*args)
            for o in new: print(o, flush=True)
            rows.extend(new)
        if wanted('a','b','c'): add(squish_rows, only, files, repeats, light)
        if wanted('d'): add(crop_row, files, repeats, light)
        if wanted('e'): add(memory_row, 'e', 'MobileNetV2, images in memory', medium, mobilenet, 'plain', 1.05, repeats)
        def large(): return memory_loaders(2000, 224, 64, 'cuda')
        if wanted('g'): add(memory_row, 'g', 'ResNet-50 on the GPU', large, resnet, 'MixUp', 1., repeats)
        # So small a network is no faster on several threads, and less even
        if wanted('f') and not threads: torch.set_num_threads(1)
        if wanted('f'): add(memory_row, 'f', 'tiny net, images in memory', small, net, 'MixUp', 1., 5*repeats)
    write_table([o.row() for o in rows], out, 'epochs')
    missed = [f'{o.name} (α = {o.alpha})' for o in rows if o.ratio>o.target]
    if missed and not quick: sys.exit(f"missed: {', '.join(missed)}")
