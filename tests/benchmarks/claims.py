"""How often summaries of a comparison claim a difference, in made-up worlds: `python tests/benchmarks/claims.py`.

Each image has a difficulty, and a second class that it is taken for. A network answers rightly where its own view of
the image, the image's ease and the network's strength in the class add up to more than 0. Methods are equal, or the
first is better by a known gain. Prints, for each design, the share of summaries in which any cell has q ≤ 0.05, and how
often the primary cell finds the gain."""
import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from fastai_balmix.metrics.differences import method_differences, recall_differences


@dataclass
class Design:
    "How a comparison is laid out, and how networks vary"
    name: str
    images: int
    shares: tuple
    methods: int = 1
    folds: int = 5
    seeds: int = 1
    per_group: int = 1
    jitter: float = .15 # Standard deviation of a network's strength in a class
    own: float = .7 # Share of an answer that is the network's own view


def tail(n_classes, ratio=20):
    "Shares of classes whose sizes fall geometrically"
    sizes = ratio**(-np.arange(n_classes)/(n_classes-1))
    return tuple(sizes/sizes.sum())


designs = [
    Design('5 folds, 1,000 images, 1 method', 1000, tail(5)),
    Design('5 folds, 1,000 images, 5 methods', 1000, tail(5), methods=5),
    Design('patients of 4 images, 3 methods', 1000, tail(5), methods=3, per_group=4),
    Design('5 folds × 2 seeds, 3 methods', 1000, tail(5), methods=3, seeds=2),
    Design('5 folds × 3 seeds, 5 methods', 1000, tail(5), methods=5, seeds=3),
    Design('one split of 300, 3 seeds, 5 methods', 300, tail(4), methods=5, folds=1, seeds=3),
    Design('3 folds, 1 method', 1000, tail(5), folds=3),
    Design('10 folds, 1 method', 1000, tail(5), folds=10),
    Design('20 classes, 3,000 images, 5 folds', 3000, tail(20)),
    Design('2 classes, 9 : 1, uneven networks', 1000, (.9, .1), jitter=.5),
]


def world(design, gain, rng):
    "Predictions (methods+1, seeds, 3 points, images), true classes, folds and groups of one made-up comparison"
    n, n_classes = design.images, len(design.shares)
    groups = np.arange(n)//design.per_group
    targs = rng.choice(n_classes, groups.max()+1, p=design.shares)[groups]
    fold = rng.integers(0, design.folds, groups.max()+1)[groups]
    shared = rng.normal(size=groups.max()+1)[groups]
    mix = .5 if design.per_group>1 else 0.
    ease = np.sqrt(mix)*shared + np.sqrt(1-mix)*rng.normal(size=n)
    second = (targs + rng.integers(1, n_classes, n)) % n_classes
    pred = np.empty((design.methods+1, design.seeds, 3, n), dtype=np.int64)
    # Points move answers from frequent to rare classes
    rarity = np.linspace(-1, 1, n_classes)[targs]
    for method in range(design.methods+1):
        better = gain if method==1 else 0.
        for seed in range(design.seeds):
            strength = rng.normal(0, design.jitter, (design.folds, n_classes))[fold, targs]
            view = np.sqrt(1-design.own)*ease + np.sqrt(design.own)*rng.normal(size=n)
            for point, shift in enumerate((-.3, 0., .5)):
                right = view + strength + better + shift*rarity + .9 > 0
                pred[method, seed, point] = np.where(right, targs, second)
    return pred, targs, fold, groups


def trial(design, gain, rng):
    """Does a summary claim anything, does the primary cell find the gain, does any class change, and by how much does
    MCC differ?"""
    pred, targs, fold, groups = world(design, gain, rng)
    layout = dict(fold=None if design.folds==1 else fold, groups=None if design.per_group==1 else groups)
    table = method_differences(pred, targs, **layout)
    first = table[(table.method==1) & (table.point==1) & (table.score=='mcc')].iloc[0]
    recalls = recall_differences(pred, targs, **layout)
    moved = ((recalls.low>0) | (recalls.high<0)) & (recalls.point==1)
    return (table.q<=.05).any(), first.q<=.05, moved.any(), first['diff']


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--trials', type=int, default=400, help='trials of each design')
    parser.add_argument('--gain', type=float, default=.12,
                        help='gain of the better method, in standard deviations of a view')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    print('| design | equals: any claim | equals: a class gained or paid | gain in MCC, points '
          '| found in the primary cell |')
    print('| --- | ---: | ---: | ---: | ---: |')
    for i, design in enumerate(designs):
        def trials(gain, stream):
            rngs = (np.random.default_rng((args.seed, i, t, stream)) for t in range(args.trials))
            return np.array([trial(design, gain, rng) for rng in rngs])
        equal, better = trials(0., 0), trials(args.gain, 1)
        print(f'| {design.name} | {equal[:, 0].mean():.3f} | {equal[:, 2].mean():.3f} | {100*better[:, 3].mean():.1f} '
              f'| {better[:, 1].mean():.2f} |', flush=True)


if __name__=='__main__': main()
