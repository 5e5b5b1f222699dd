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
import pandas as pd

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
    "What a summary of one made-up comparison says, numbers by name"
    pred, targs, fold, groups = world(design, gain, rng)
    layout = dict(fold=None if design.folds==1 else fold, groups=None if design.per_group==1 else groups)
    table = method_differences(pred, targs, **layout)
    first = table[(table.method==1) & (table.point==1) & (table.score=='mcc')].iloc[0]
    recalls = recall_differences(pred, targs, **layout)
    moved = ((recalls.low>0) | (recalls.high<0)) & (recalls.point==1)
    return dict(claims=(table.q<=.05).any(), found=first.q<=.05, any_cell=(table[table.method==1].q<=.05).any(),
                moved=moved.any(), diff=first['diff'], low=first.low, high=first.high, mdd80=first.mdd80)


def row_of(equal, better):
    "Shares of trials without and with a gain, as they are printed"
    # Trials agree on the true difference up to a small part of an interval
    truth = better['diff'].mean()
    held = pd.concat([(equal.low<=0) & (equal.high>=0), (better.low<=truth) & (better.high>=truth)])
    return [f'{equal.claims.mean():.3f}', f'{equal.moved.mean():.3f}', f'{held.mean():.3f}', f'{100*truth:.1f}',
            f'{better.found.mean():.2f}', f'{better.any_cell.mean():.2f}', f'{100*better.mdd80.median():.1f}']


head = ['design', 'equals: any claim', 'equals: a class gained or paid', 'the interval holds the truth',
        'true gain in MCC, points', 'found in MCC at the training prevalence', 'found in any cell',
        'MDD80, points']


def made_up(trials, gain, seed):
    "A row of the table for each design, as it is done"
    for i, design in enumerate(designs):
        def run(gain, stream):
            rngs = (np.random.default_rng((seed, i, t, stream)) for t in range(trials))
            return pd.DataFrame([trial(design, gain, rng) for rng in rngs])
        yield [design.name, *row_of(run(0., 0), run(gain, 1))]


def real_networks(trials, seed, networks=12, epochs=8):
    """Small networks of one recipe on the embedded digits, `networks` a fold, are told apart as if they were those of
    different methods. Yields the design and the share of summaries that claim anything."""
    import tempfile

    from fastai_balmix.compare.claims import RunAnswers
    from fastai_balmix.compare.plan import compare
    from fastai_balmix.datasets.published import digits
    recipe = dict(archs='small', epochs=epochs, size=16, bs=32, lr=.05, mom=.9, augment='none', pretrained=False,
                  tta=False)
    with tempfile.TemporaryDirectory() as folder:
        results = compare(digits(n_folds=3), ['instance'], seeds=networks, out=folder, show=False, **recipe)
        answers = RunAnswers(results, 'report')
        runs = results.df[(results.df.part=='report') & (results.df.point=='as trained')]
        preds = {fold: [answers.load(fold, run) for run in rows.run] for fold, rows in runs.groupby('fold')}
    points = [*preds[1][0]]
    targs = {fold: answers.items[fold][0] for fold in preds}
    rng = np.random.default_rng(seed)
    for name, methods, seeds, folds in (
            ('digits, 3 folds, 1 method', 1, 1, [*preds]), ('digits, 3 folds, 3 methods', 3, 1, [*preds]),
            ('digits, 3 folds × 2 seeds, 3 methods', 3, 2, [*preds]),
            ('digits, one split, 3 seeds, 2 methods', 2, 3, [1])):
        claims = moved = 0
        for _ in range(trials):
            layout = []
            for fold in folds:
                drawn = rng.permutation(networks)[:(methods+1)*seeds].reshape(methods+1, seeds)
                layout.append([[[preds[fold][i][o] for o in points] for i in row] for row in drawn])
            pred = np.concatenate([np.array(o) for o in layout], -1)
            fold_of = np.repeat(folds, [len(targs[o]) for o in folds]) if len(folds)>1 else None
            truth = np.concatenate([targs[o] for o in folds])
            claims += (method_differences(pred, truth, fold=fold_of).q<=.05).any()
            recalls = recall_differences(pred, truth, fold=fold_of)
            moved += ((recalls.low>0) | (recalls.high<0))[recalls.point==1].any()
        yield [name, f'{claims/trials:.3f}', f'{moved/trials:.3f}', *['–']*5]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--trials', type=int, default=400, help='trials of each design')
    parser.add_argument('--gain', type=float, default=.12,
                        help='gain of the better method, in standard deviations of a view')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--networks', action='store_true',
                        help='small networks of one recipe, in place of made-up ones')
    args = parser.parse_args()
    print(f"| {' | '.join(head)} |")
    print('| --- |'+' ---: |'*(len(head)-1))
    rows = real_networks(args.trials, args.seed) if args.networks else made_up(args.trials, args.gain, args.seed)
    for row in rows: print(f"| {' | '.join(row)} |", flush=True)


if __name__=='__main__': main()
