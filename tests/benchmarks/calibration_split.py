"""What it costs to calibrate on the very images that chose the epoch: `python tests/benchmarks/calibration_split.py`.

A small network is trained on noisy points until it overfits. A selection split chooses the epoch by MCC, and a
`PriorCalibrator` is fitted on that split in three ways: on the same images, on one half while the other half chooses,
and cross-fitted, each fifth answered by the network of the epoch that the other four chose. The same is done with
epochs that differ by noise of their own, where the choice is luck alone. Temperature and calibration error are held
against those of 5,000 further points. Everything follows from the seed."""

import argparse

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from fastai_balmix.inference import PriorCalibrator
from fastai_balmix.metrics import calibration_error, confusion, mcc

shares = np.array([.6,.3,.1])

def points(n, rng):
    "Points of three classes in 20 dimensions, of which three tell the class"
    y = rng.choice(3, n, p=shares)
    x = rng.normal(size=(n,20))
    x[:,:3] += 1.1*np.eye(3)[y]
    return torch.tensor(x, dtype=torch.float32),torch.tensor(y)

def epochs_of(train, others, n_epoch, seed):
    "Probabilities for each of `others` after every epoch"
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(20,32), nn.ReLU(), nn.Dropout(.5), nn.Linear(32,3))
    opt = torch.optim.SGD(net.parameters(), lr=.3, momentum=.5)
    x,y = train
    for _ in range(n_epoch):
        net.train()
        for idx in torch.randperm(len(y)).split(16):
            opt.zero_grad()
            F.cross_entropy(net(x[idx]), y[idx]).backward()
            opt.step()
        net.eval()
        with torch.no_grad(): yield [net(o).softmax(1).numpy() for o in others]

def lucky_epochs(others, n_epoch, rng):
    "Probabilities for each of `others` after every epoch, which differ by noise of their own"
    known = [1.2*np.eye(3)[y]+.9*rng.normal(size=(len(y),3)) for _,y in others]
    for _ in range(n_epoch):
        noisy = [1.5*(o+.8*rng.normal(size=o.shape))+np.log(shares) for o in known]
        yield [np.exp(o)/np.exp(o).sum(1, keepdims=True) for o in noisy]

def best_epoch(probs, targs): return int(np.argmax([mcc(confusion(p, targs)) for p in probs]))

def outcome(calibrator, probs, targs, own):
    "Temperature, as a factor of that fitted on many further points, and calibration errors in percent"
    many = PriorCalibrator(shares).fit(probs, targs)
    return dict(temperature=calibrator.temperature_, right=many.temperature_,
                error=100*calibration_error(calibrator.predict(probs, 'train'), targs),
                as_trained=100*calibration_error(own, targs))

def trial(n_select, n_epoch, seed, trained):
    "One network, trained or of lucky epochs, calibrated in three ways"
    rng = np.random.default_rng(seed)
    train,select,test = (points(n, rng) for n in (150,n_select,5000))
    if trained: answers = [*epochs_of(train, (select[0],test[0]), n_epoch, seed)]
    else: answers = [*lucky_epochs((select,test), n_epoch, rng)]
    chosen,held = ([o[i] for o in answers] for i in (0,1))
    y,t = select[1].numpy(),test[1].numpy()
    a,b = np.arange(0, n_select, 2),np.arange(1, n_select, 2)
    def best_of(rows): return best_epoch([p[rows] for p in chosen], y[rows])
    def fit(probs, targs): return PriorCalibrator(shares).fit(probs, targs)
    whole,first = best_of(np.arange(n_select)),best_of(a)
    crossed = np.empty((n_select,3))
    for k in range(5):
        fold = np.arange(n_select)%5==k
        crossed[fold] = chosen[best_of(~fold)][fold]
    ways = {
        'same images': (whole,fit(chosen[whole], y)),
        'halves': (first,fit(chosen[first][b], y[b])),
        'cross-fitted': (whole,fit(crossed, y))}
    return [dict(way=k, **outcome(cal, held[epoch], t, held[epoch])) for k,(epoch,cal) in ways.items()]

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--trials', type=int, default=100, help='networks for each size')
    parser.add_argument('--sizes', type=int, nargs='+', default=[80,200,800], help='images of the selection split')
    parser.add_argument('--epochs', type=int, default=40)
    args = parser.parse_args()
    for n in args.sizes:
        for kind in 'trained networks','lucky epochs':
            trials = [trial(n, args.epochs, i, kind=='trained networks') for i in range(args.trials)]
            print(f'\n{n} images choose and calibrate, {args.trials} times {kind}: means')
            print(pd.DataFrame([o for t in trials for o in t]).groupby('way', sort=False).mean().round(2).to_string())
