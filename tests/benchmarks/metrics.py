"""The paper's five scores over many predictions: from one confusion matrix, by fastai's metrics, and directly.

    python tests/benchmarks/metrics.py --out FOLDER

A million predictions for 23 classes with a long tail come in batches of 50,000, as in a validation. Measured in one
run, in turns, are the median seconds until all five are there (MCC, balanced accuracy, macro-F1, quadratic κ,
Kendall's τ-b), in two settings:

- from predicted classes: the matrices of all batches added up, then the five functions of it; against scikit-learn
  and scipy on all items. The aim is 40 times as fast.
- from network outputs: `imbalance_metrics(ordered=True)` fed batch by batch; against fastai's `MatthewsCorrCoef`,
  `BalancedAccuracy`, `F1Score(average='macro')`, `CohenKappa(weights='quadratic')` and, as it has none, scipy's
  `kendalltau` in an `AccumMetric`. Here the largest of 23 outputs must be found for each item, which nothing can
  avoid; ours do so once, fastai's five times. How long once takes is shown beside.

All ways must come to the same scores. Then the bytes that metrics keep until the end of a validation, for three
numbers of predictions, and the seconds of a bootstrap of 10,000 matrices; the aims are that they do not grow, and a
second. The script ends with an error where an aim is missed."""
import sys
import types
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import machine, timed, write_table
from fastai.metrics import AccumMetric, BalancedAccuracy, CohenKappa, F1Score, MatthewsCorrCoef
from fastcore.script import call_parse, store_true
from scipy import stats
from sklearn import metrics as skm

from fastai_balmix.metrics.intervals import confidence_interval
from fastai_balmix.metrics.learner import imbalance_metrics
from fastai_balmix.metrics.scores import balanced_acc, confusion, kendall_tau, macro_f1, mcc, quad_kappa

K,BS = 23,50_000

def make_batches(n):
    "Outputs (B,K) and true classes (B,), a long tail of them; two in three answers are right"
    g = torch.Generator().manual_seed(0)
    res = []
    for i in range(0, n, BS):
        targ = torch.multinomial(.8**torch.arange(K), min(BS, n-i), replacement=True, generator=g)
        pred = torch.randn(len(targ), K, generator=g)
        pred[torch.arange(len(targ)),targ] += 2.5
        res.append((pred,targ))
    return res

def validate(metrics, batches):
    "What a learner's recorder does in one validation"
    learn = types.SimpleNamespace(metrics=metrics, dl=None, to_detach=lambda x: x.detach())
    for m in metrics: m.reset()
    for pred,targ in batches:
        learn.pred,learn.y,learn.yb = pred,targ,(targ,)
        for m in metrics: m.accumulate(learn)
    return [float(m.value) for m in metrics]

def kendall(pred, targ): return stats.kendalltau(pred, targ).statistic
def fastai_metrics():
    return [MatthewsCorrCoef(), BalancedAccuracy(), F1Score(average='macro'), CohenKappa(weights='quadratic'),
            AccumMetric(kendall, dim_argmax=-1)]

def from_matrix(batches):
    cm = sum(confusion(p, t, K) for p,t in batches)
    return [f(cm) for f in (mcc,balanced_acc,macro_f1,quad_kappa,kendall_tau)]

def direct(p, t):
    return [skm.matthews_corrcoef(t, p), skm.balanced_accuracy_score(t, p), skm.f1_score(t, p, average='macro'),
            skm.cohen_kappa_score(t, p, weights='quadratic', labels=range(K)), stats.kendalltau(t, p).statistic]

def kept(metrics):
    "Bytes of all tensors and arrays that metrics hold, or lists of them"
    values = [v for m in metrics for o in vars(m).values() for v in (o if isinstance(o, list) else [o])]
    return sum(v.nbytes for v in values if isinstance(v, (torch.Tensor,np.ndarray)))

@call_parse
def main(
    n:int=1_000_000, # Predictions
    repeats:int=5, # Repetitions, of which the median counts
    quick:store_true=False, # A tenth of the predictions, twice
    out:Path=None # Folder for `metrics.csv`. Default: none is written.
):
    "Time five scores, three ways"
    if quick: n,repeats = n//10,2
    batches = make_batches(n)
    classes = [(pred.argmax(1).numpy(),targ.numpy()) for pred,targ in batches]
    p,t = map(np.concatenate, zip(*classes))
    ours,theirs = imbalance_metrics(ordered=True),fastai_metrics()
    ways = {'matrix': lambda: from_matrix(classes), 'scikit-learn, scipy': lambda: direct(p, t),
            'our metrics': lambda: validate(ours, batches), "fastai's metrics": lambda: validate(theirs, batches)}
    # The first call of each pays for imports
    for f in ways.values(): f()
    secs = {k:[] for k in ways}
    for _ in range(repeats):
        scores = []
        for k,f in ways.items():
            s,res = timed(f)
            secs[k].append(s)
            scores.append(res)
        for o in scores: np.testing.assert_allclose(o, scores[0], rtol=0, atol=1e-12)
    secs,each = {k:median(v) for k,v in secs.items()},secs
    print(machine())
    threads = torch.get_num_threads()
    print(f'{n:,} predictions, {K} classes, batches of {BS:,}; median of {repeats}, {threads} thread(s)')
    rows = []
    pairs = ('predicted classes','matrix','scikit-learn, scipy'),('network outputs','our metrics',"fastai's metrics")
    for title,a,b in pairs:
        print(f"\n{f'from {title}':24}{'seconds':>9}")
        for k in a,b: print(f'{k:24}{secs[k]:9.4f}')
        ratios = [y/x for x,y in zip(each[a], each[b])]
        rows.append(dict(what=title, other=b, n=n, ours_s=secs[a], other_s=secs[b], ratio=median(ratios),
                         spread=f'{min(ratios):.0f} to {max(ratios):.0f}'))
        print(f"{'times as fast':24}{rows[-1]['ratio']:9.1f}   {rows[-1]['spread']}")
    argmax = median(timed(lambda: [pred.argmax(-1) for pred,_ in batches])[0] for _ in range(repeats))
    print(f"{'the largest output':24}{argmax:9.4f}\n")

    print(f"{'bytes kept':>22}{'ours':>10}{'fastai':>14}")
    sizes = []
    for m in n//100,n//10,n:
        some = make_batches(m)
        for mets in ours,theirs: validate(mets, some)
        sizes.append(kept(ours))
        print(f'{m:14,} items{sizes[-1]:10,}{kept(theirs):14,}')
    boot = median(timed(confidence_interval, p, t, mcc)[0] for _ in range(repeats))
    print(f'\nbootstrap of 10,000 matrices, {K} classes: {boot:.3f} s')

    write_table(rows, out, 'metrics')
    if quick: return
    met = {'speed': secs['scikit-learn, scipy']>=40*secs['matrix'], 'memory': len({*sizes})==1, 'bootstrap': boot<1}
    missed = [k for k,v in met.items() if not v]
    if missed: sys.exit(f"missed: {', '.join(missed)}")
