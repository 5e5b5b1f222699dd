"""What it costs to calibrate on the very images that chose the epoch: `python tests/benchmarks/calibration_split.py`.

A small network is trained on noisy points until it overfits. A selection split chooses the epoch by MCC, and a
`PriorCalibrator` is fitted on that split in three ways: on the same images, on one half while the other half chooses,
and cross-fitted, each half answered by the network of the epoch that the other half chose. Temperature and calibration
error are held against those of 20,000 further points. Everything follows from the seed."""

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

def best_epoch(probs, targs): return int(np.argmax([mcc(confusion(p, targs)) for p in probs]))

def outcome(calibrator, probs, targs, own):
    "Temperature, as a factor of that fitted on many further points, and calibration errors in percent"
    many = PriorCalibrator(shares).fit(probs, targs)
    return dict(temperature=calibrator.temperature_, right=many.temperature_,
                error=100*calibration_error(calibrator.predict(probs, 'train'), targs),
                as_trained=100*calibration_error(own, targs))

def trial(n_select, n_epoch, seed):
    "One network, calibrated in three ways"
    rng = np.random.default_rng(seed)
    train,select,test = (points(n, rng) for n in (150,n_select,20_000))
    answers = [*epochs_of(train, (select[0],test[0]), n_epoch, seed)]
    chosen,held = ([o[i] for o in answers] for i in (0,1))
    y,t = select[1].numpy(),test[1].numpy()
    a,b = np.arange(0, n_select, 2),np.arange(1, n_select, 2)
    whole,first,second = (best_epoch([p[o] for p in chosen], y[o]) for o in (np.arange(n_select),a,b))
    def fit(probs, targs): return PriorCalibrator(shares).fit(probs, targs)
    crossed = np.concatenate([chosen[second][a],chosen[first][b]])
    ways = {
        'same images': (whole,fit(chosen[whole], y)),
        'halves': (first,fit(chosen[first][b], y[b])),
        'cross-fitted': (whole,fit(crossed, np.concatenate([y[a],y[b]])))}
    return [dict(way=k, **outcome(cal, held[epoch], t, held[epoch])) for k,(epoch,cal) in ways.items()]

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--trials', type=int, default=100, help='networks for each size')
    parser.add_argument('--sizes', type=int, nargs='+', default=[80,200,800], help='images of the selection split')
    parser.add_argument('--epochs', type=int, default=40)
    args = parser.parse_args()
    for n in args.sizes:
        rows = pd.DataFrame([o for i in range(args.trials) for o in trial(n, args.epochs, i)])
        print(f'\n{n} images choose and calibrate, {args.trials} networks: means')
        print(rows.groupby('way', sort=False).mean().round(2).to_string())
