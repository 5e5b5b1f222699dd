"""What `tests/test_distributed.py` trains: pictures, a network and a record of what a process was given. Started as a
script by `accelerate launch`, it is a user's training loop, and every process writes to a file what it saw."""

import os
import sys
from pathlib import Path

import fastai.callback.schedule  # noqa: F401 # `fit_one_cycle`
import torch
from fastai.basics import SGD, Callback, CrossEntropyLossFlat, DataLoaders, Learner, partial, rank_distrib
from fastai.distributed import DistributedDL
from torch import nn
from toys import broadcast_on_cpu, seeded_dl, tail_targets

from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.metrics.learner import BrierError, CalibrationError, imbalance_metrics


class Pictures(torch.utils.data.Dataset):
    "Random pictures, each with the class that `counts` and chance give it"
    def __init__(self, counts, seed=0):
        self.targets,self.opened = tail_targets(*counts, seed=seed),[]
        self.x = torch.randn(len(self), 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        self.number = {o.item(): i for i,o in enumerate(self.x[:,0,0,0])}
    def __len__(self): return len(self.targets)
    def __getitem__(self, i):
        self.opened.append(i)
        return self.x[i],self.targets[i]
    def find(self, x): return [self.number[o.item()] for o in x[:,0,0,0]]

TRAIN,VALID = (30,14,6,3),(9,5,3,2)
def make_dls(train=TRAIN, bs=8, seed=0, **kwargs):
    return DataLoaders(seeded_dl(Pictures(train), bs, seed, **kwargs),
        seeded_dl(Pictures(VALID, seed=1), 4, shuffle=False, **kwargs), device='cpu')

def make_net(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))

def everything(): return [*imbalance_metrics(ordered=True), CalibrationError(), BrierError()]

def make_learner(dls, cbs=None):
    return Learner(dls, make_net(), loss_func=CrossEntropyLossFlat(), opt_func=partial(SGD, mom=.9), lr=.05,
        metrics=everything(), cbs=cbs)

class Record(Callback):
    "What a process is given, before it is mixed, and where each step leads"
    order,run_valid = BalancedMixUp.order-1,False
    def before_fit(self): self.epochs,self.start = [],None
    def before_train(self): self.epochs.append([])
    def before_batch(self):
        if self.start is None:
            self.start = {k.removeprefix('module.'): v.clone() for k,v in self.model.state_dict().items()}
        lam,numbers = getattr(self.dl, 'lam', 0.),self.dl.dataset.find(self.x)
        n = len(lam) if torch.is_tensor(lam) else len(numbers)//(2 if lam else 1)
        self.epochs[-1].append(dict(first=numbers[:n], second=numbers[n:], lam=lam.tolist()
            if torch.is_tensor(lam) else [lam]*n, kind=type(self.dl).__name__))
    def before_step(self): self.epochs[-1][-1].update(lr=self.opt.hypers[-1]['lr'], mom=self.opt.hypers[-1]['mom'])
    def after_batch(self):
        params = torch.cat([p.detach().flatten() for p in self.model.parameters()]).clone()
        self.epochs[-1][-1].update(pred=self.pred.detach().clone(), targ=self.y.clone(), params=params)

def seen(learn, record):
    "All that is compared"
    return dict(rank=rank_distrib(), epochs=record.epochs, start=record.start,
        net={k: v.clone() for k,v in learn.model.state_dict().items()},
                values=dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1])),
                matrix=learn.metrics[0].matrix)

class Fail(Callback):
    "At its third batch, one process ends: killed, or with an error"
    order = -10
    def __init__(self, rank, how, training=True): self.rank,self.how,self.when = rank,how,training
    def before_batch(self):
        if rank_distrib()!=self.rank or self.iter!=2 or self.training!=self.when: return
        if self.how=='killed': os.kill(os.getpid(), 9)
        raise ValueError('this file cannot be read')

def main(folder, *how):
    "Two lines are a user's"
    folder,record = Path(folder),Record()
    rank = rank_distrib()
    (folder/f'{rank}.pid').write_text(str(os.getpid()))
    # Processes that start from different weights, and shuffle differently: only those of the first count
    torch.manual_seed(rank)
    learn = make_learner(make_dls(seed=rank), [record, *(Fail(1, o) for o in how)])
    learn.recorder.train_metrics = True
    with learn.distrib_ctx(): learn.fit_one_cycle(5, cbs=BalancedMixUp())
    torch.save(seen(learn, record), folder/f'{rank}.pt')

if __name__=='__main__':
    DistributedDL._broadcast = broadcast_on_cpu
    main(*sys.argv[1:])
    # PyTorch's DDP keeps its gloo threads, and Python aborts if one still lets go of a gathered tensor while the
    # interpreter ends
    sys.stdout.flush()
    os._exit(0)
