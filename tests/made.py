"""Folders as `compare` leaves them, of networks that were made up, so that a report can be counted without training."""

import json
from pathlib import Path

import numpy as np

from fastai_balmix.compare.results import results_table
from fastai_balmix.metrics.scores import score_row

POINTS = {'as trained':.6, 'train prevalence':1., 'balanced prior':0.}


def drawn(y, k, prior, skill, rng):
    "Probabilities of an imaginary network at each operating point"
    z = skill*np.eye(k)[y] + rng.normal(size=(len(y),k))
    res = {}
    for point,t in POINTS.items():
        p = np.exp(z + t*np.log(prior))
        res[point] = (p/p.sum(1, keepdims=True)).astype(np.float32)
    return res


def write_run(folder, method, arch, fold, seed, y, probs, counts, order, names, groups, history):
    "What a run leaves behind; gives its record"
    run,n = f'{method}-{arch}-{fold}-{seed}',len(y)
    paths = np.array([names.format(f=fold, i=i) for i in range(n)])
    arrays = {'paths':paths, 'targs':y, 'plain':probs['as trained'], **{f'probs/{p}':v for p,v in probs.items()}}
    if groups: arrays['groups'] = np.array([f'{fold}-{i//3}' for i in range(n)])
    path = folder/'runs'/run
    path.mkdir(parents=True)
    np.savez(path/'predictions.npz', **{f'report/{k}':v[order] for k,v in arrays.items()})
    common = dict(method=method, arch=arch, fold=fold, seed=seed, part='report')
    epochs = [dict(train_loss=1/e, valid_loss=1.1/e, mcc=e/5) for e in (1,2,3)] if history else []
    record = dict(
        run=run, settings='0123', best_epoch=2, epochs=3, seconds=1., history=epochs,
        rows=[dict(common, point=p, **score_row(v, y), n_images=n) for p,v in probs.items()],
        n_bytes=(path/'predictions.npz').stat().st_size, train_counts=counts.tolist(),
        train_shares=(counts/counts.sum()).tolist(), data='made', fingerprint='f00', versions='fastai 2.8',
        revision='abc', started='2026-01-01T00:00:00', finished='2026-01-01T00:01:00', host='h')
    (path/'run.json').write_text(json.dumps(record))
    return record


def write_results(
    folder, vocab, methods=(('instance',1.5),('class',1.6)), folds=(1,2), seeds=(0,), archs=('small',), n=120,
    groups=False, names='{f}/{i}.jpg', history=True, settings='data: given in Python\n', **meta
):
    "What `compare` leaves behind: a table, what is common, and for each run its record and predictions"
    rng,k,folder = np.random.default_rng(0),len(vocab),Path(folder)
    prior = np.geomspace(1, 1/12, k)
    prior /= prior.sum()
    counts = np.maximum(np.round(4*n*prior), 2)
    truth = {f: rng.permutation(np.concatenate([np.arange(k), rng.choice(k, n-k, p=prior)])) for f in folds}
    records = []
    for arch in archs:
        for method,skill in methods:
            for fold in folds:
                for seed in seeds:
                    order = rng.permutation(n)
                    probs = drawn(truth[fold], k, prior, skill, np.random.default_rng([fold,seed,len(method)]))
                    records.append(write_run(folder, method, arch, fold, seed, truth[fold], probs, counts, order, names,
                                             groups, history))
    results_table(records).to_csv(folder/'results.csv', index=False)
    common = dict(
        data='made', vocab=vocab, ordered=False, n_folds=len(folds), selection='inner', grouped=groups, notes=[],
        monitor='mcc', prevalence=None, failed=[], fingerprint='f00', version='0.0.1', settings='0123')
    (folder/'meta.json').write_text(json.dumps(common|meta))
    (folder/'settings.yaml').write_text(settings)
    return folder
