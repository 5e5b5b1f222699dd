"""How often 95 % intervals of a score hold the truth, on few images: `python tests/benchmarks/intervals.py`.

A world has class shares and recalls; images are drawn from it, and `confidence_interval` is held against the score of
the world itself. Patients have several images of one class, which are right or wrong together as often as stated."""
import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from fastai_balmix.metrics.intervals import confidence_interval
from fastai_balmix.metrics.scores import balanced_acc, geometric_mean, macro_f1, mcc

scores = dict(macro_f1=macro_f1, geometric_mean=geometric_mean, balanced_accuracy=balanced_acc, mcc=mcc)


def world(n_classes, ratio, first, last):
    "Shares of truth × answer: sizes fall geometrically, recalls evenly, and errors go to frequent classes"
    sizes = ratio**(-np.arange(n_classes)/(n_classes-1))
    shares = sizes/sizes.sum()
    recalls = np.linspace(first, last, n_classes)
    wrong = np.tile(shares, (n_classes, 1))
    np.fill_diagonal(wrong, 0)
    res = (1-recalls)[:, None]*wrong/wrong.sum(1, keepdims=True)
    np.fill_diagonal(res, recalls)
    return shares[:, None]*res


def draw(matrix, n, per_group, alike, rng):
    "Answers, truth and patient of n images; two images of a patient share their fate with probability alike²"
    n_groups, k = n//per_group, len(matrix)
    shares = matrix.sum(1)
    targs = rng.choice(k, n_groups, p=shares/shares.sum()).repeat(per_group)
    groups = np.arange(n_groups).repeat(per_group)
    u = np.where(rng.random(len(targs))<alike, rng.random(n_groups)[groups], rng.random(len(targs)))
    below = (matrix/shares[:, None]).cumsum(1)
    return np.minimum((u[:, None]>below[targs]).sum(1), k-1), targs, groups


worlds = {
    '3 classes, 7 : 1': world(3, 7, .9, .6), '5 classes, 20 : 1': world(5, 20, .95, .4),
    '5 classes, 10 : 1, good': world(5, 10, .97, .85), '8 classes, 15 : 1': world(8, 15, .9, .5),
    '2 classes, 9 : 1': world(2, 9, .95, .6)}
designs = [(100, 1), (200, 1), (1000, 1), (200, 4)]


def coverage(matrix, n, per_group, trials, seed=0, draws=800):
    "Share of intervals that hold the score of the world, by score"
    held = dict.fromkeys(scores, 0)
    for trial in range(trials):
        preds, targs, groups = draw(matrix, n, per_group, .7, np.random.default_rng((seed, n, per_group, trial)))
        for name, score in scores.items():
            interval = confidence_interval(preds, targs, score, groups if per_group>1 else None, draws, seed=trial,
                                           n_classes=len(matrix))
            held[name] += interval.low<=score(matrix)<=interval.high
    return {name: count/trials for name, count in held.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--trials', type=int, default=500, help='trials of each world and number of images')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    print('| world | images | rarest class | '+' | '.join(scores)+' |')
    print('| --- |'+' ---: |'*(2+len(scores)))
    for name, matrix in worlds.items():
        for n, per_group in designs:
            of_patients = f', {per_group} a patient' if per_group>1 else ''
            shares = coverage(matrix, n, per_group, args.trials, args.seed)
            rarest = n*matrix.sum(1).min()
            cells = [name, f'{n:,}{of_patients}', f'{rarest:.0f}', *(f'{o:.3f}' for o in shares.values())]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__=='__main__': main()
