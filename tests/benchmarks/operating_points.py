"""Methods on a long-tailed Fashion-MNIST, as trained and at equal operating points.

    python tests/benchmarks/operating_points.py --out points.jsonl

One run trains a small network from scratch on 4,964 images (2,000 of the most frequent class, 20 of the rarest, the
order of classes shuffled by the seed) and predicts a selection split (a fifth more images, with the same tail) and
the 10,000 balanced test images with flip TTA. Scores in percent: MCC at the training prevalence, by weighting the
rows of the test set's matrix, and balanced accuracy; of each network as it was trained, and after `PriorCalibrator`,
fitted on the selection split and shrunk towards the nominal prior, has moved it to the training prevalence (MCC) and
to equal shares (balanced accuracy); and with the nominal prior in place of the fitted one. Differences to instance
sampling are paired over seeds, with their 95 % t-interval.

Finished runs are kept in `--out`, a line each; a second call runs those that are missing, and prints the
tables of all. A run takes about a minute on one core. The data are those of Debian's package dataset-fashion-mnist."""
import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.vision.all import *
from fastcore.script import call_parse, store_true
from scipy import stats

from fastai_balmix.all import *

folder = Path('/usr/share/datasets/fashion-mnist')

def read_idx(name, skip): return np.frombuffer(gzip.decompress((folder/name).read_bytes()), np.uint8, offset=skip)

def read_split(name):
    "Images (N,1,28,28) float32, and labels (N,) int64"
    x,y = read_idx(f'{name}-images-idx3-ubyte.gz', 16),read_idx(f'{name}-labels-idx1-ubyte.gz', 8)
    return torch.from_numpy(x.reshape(-1,1,28,28).astype(np.float32)/255-.5),y.astype(np.int64)

class Tensors:
    "Images and labels held in memory; a batch is taken out at once"
    def __init__(self, x, y): self.x,self.targets,self.classes = x,y,list(range(10))
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i],int(self.targets[i])

class Augment(Callback):
    """Mirror each training image with probability ½ and shift it by up to 2 pixels, partners of Balanced-MixUp
    included, before anything is mixed"""
    order,run_valid = -4,False
    def before_batch(self):
        x = self.x
        n = len(x)
        pad = F.pad(torch.where(torch.rand(n,1,1,1)<.5, x.flip(-1), x)[:,0], (2,2,2,2), value=-.5)
        (dy,dx),i = torch.randint(5, (2,n,1,1)),torch.arange(28)
        self.learn.xb = (pad[torch.arange(n).view(-1,1,1), i.view(1,-1,1)+dy, i.view(1,1,-1)+dx][:,None],)

def network(width):
    c = [1,16*width,32*width,32*width,64*width]
    def layer(i, o, s): return nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
    return nn.Sequential(*map(layer, c, c[1:], (1,2,1,2)),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c[-1], 10))

def balmix(alpha, q='instance', **kwargs):
    def method(dls, seed, counts):
        if q!='instance': dls = dls.weighted(q, seed=seed)
        return dls,[BalancedMixUp(alpha, seed=seed, **kwargs)],None
    return method
def drawn(q): return lambda dls,seed,counts: (dls.weighted(q, seed=seed), [], None)
def with_loss(f): return lambda dls,seed,counts: (dls, [], f(counts))

methods = {'instance': lambda dls,seed,counts: (dls, [], None), 'class': drawn('class'), 'sqrt': drawn('sqrt'),
    'focal': with_loss(lambda counts: FocalLossFlat()),
    'class-balanced loss': with_loss(lambda counts: ClassBalancedLoss(counts, .9999)),
    'MixUp 0.2': lambda dls,seed,counts: (dls, [MixUp(.2)], None),
    **{f'Balanced-MixUp {a:g}': balmix(a) for a in (.1,.2,.3,1.)},
    **{f'Balanced-MixUp {a:g}, λ per pair': balmix(a, per_item=True) for a in (.2,1.)},
    'sqrt + Balanced-MixUp 0.2': balmix(.2, q='sqrt')}

def cut(y, counts, seed):
    "Training and selection items, with the tail `counts` over classes, a fifth of each for selection"
    more = np.maximum(np.rint(counts*.2), 1).astype(int)
    both = tail_idxs(y, counts+more, seed=seed)
    train = both[tail_idxs(y[both], counts, seed=seed)]
    return train,np.setdiff1d(both, train)

def run(method, seed, epochs, width, data):
    "Train and score one network"
    start = time.perf_counter()
    (x,y),(xt,yt) = data
    counts = tail_counts(2000, 10, 100)[np.random.default_rng(seed).permutation(10)]
    train,sel = cut(y, counts, seed)
    train_dl = DataLoader(Tensors(x[train], y[train]), bs=64, shuffle=True, drop_last=True)
    dls = DataLoaders(train_dl, DataLoader(Tensors(x[sel], y[sel]), bs=500))
    dls.train.rng = random.Random(seed)
    test = DataLoader(Tensors(xt, yt), bs=500)
    used,cbs,loss = methods[method](dls, seed, counts)
    set_seed(seed)
    learn = Learner(used, network(width), loss_func=loss or CrossEntropyLossFlat(), opt_func=partial(SGD, mom=.9),
                    wd=5e-4)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, .05, moms=(.9,.9,.9), cbs=[Augment(), *cbs])
        (ps,ts),(pt,tt) = learn.tta_flip(),learn.tta_flip(dl=test)
    share,nominal = counts/counts.sum(),nominal_prior(used, *cbs)
    if getattr(loss, 'weight', None) is not None:
        weighted = nominal*loss.weight.numpy()
        nominal = weighted/weighted.sum()
    cal = PriorCalibrator(nominal).fit(ps, ts)
    def mcc_at(p): return 100*mcc(reweight(confusion(p, tt), share))
    def bal(p): return 100*balanced_acc(confusion(p, tt))
    res = dict(trained_mcc=mcc_at(pt), trained_bal=bal(pt), calibrated_mcc=mcc_at(cal.predict(pt, share)),
               calibrated_bal=bal(cal.predict(pt, 'balanced')),
               nominal_mcc=mcc_at(adjust_prior(pt, nominal, share)),
               nominal_bal=bal(adjust_prior(pt, nominal, 'balanced')))
    res = {k: round(float(v), 3) for k,v in res.items()}
    seconds = round(time.perf_counter()-start, 1)
    return dict(method=method, seed=seed, epochs=epochs, width=width, **res, seconds=seconds)

def tables(df):
    "Means over seeds, and paired differences to instance sampling with 95 % intervals"
    cols = [c for c in df if c.endswith(('_mcc','_bal'))]
    print(f"\n{df.seed.nunique()} seeds, {df.epochs.iloc[0]} epochs, width {df.width.iloc[0]}; mean over seeds\n")
    order = [m for m in methods if m in set(df.method)]
    print(df.groupby('method')[cols].mean().loc[order].round(1).to_string())
    if 'instance' not in order or df.seed.nunique()<2: return
    rows = {}
    for m in order[1:]:
        d = (df[df.method==m].set_index('seed')[cols] - df[df.method=='instance'].set_index('seed')[cols]).dropna()
        half = stats.t.ppf(.975, len(d)-1)*d.std(ddof=1)/np.sqrt(len(d))
        rows[m] = {c: f'{d[c].mean():+.1f} ± {half[c]:.1f}' for c in cols}
    print('\nless instance sampling, paired over seeds, with 95 % intervals\n')
    print(pd.DataFrame(rows).T.to_string())

@call_parse
def main(
    out:Path='points.jsonl', # File of finished runs
    seeds:int=7, # Number of seeds
    epochs:int=15, # Epochs of a run
    width:int=1, # Channels are 16, 32, 32, 64 times this
    only:str='', # Methods to run, separated by semicolons. Default: all.
    quick:store_true=False # Two seeds of one epoch: does the script run?
):
    "Train every method with every seed, and print tables"
    if not folder.exists(): sys.exit(f'{folder} is not there: install the Debian package dataset-fashion-mnist')
    torch.set_num_threads(1)
    if quick: seeds,epochs = 2,1
    done = [json.loads(o) for o in out.read_text().splitlines()] if out.exists() else []
    have = {(o['method'],o['seed'],o['epochs'],o['width']) for o in done}
    data = read_split('train'),read_split('t10k')
    for seed in range(seeds):
        for m in only.split(';') if only else methods:
            if (m,seed,epochs,width) in have: continue
            done.append(run(m, seed, epochs, width, data))
            with out.open('a') as f: f.write(json.dumps(done[-1])+'\n')
            print(done[-1], flush=True)
    tables(pd.DataFrame([o for o in done if o['epochs']==epochs and o['width']==width]))
