"""What a report costs: processor seconds and memory of `report` on folders of comparisons that were made up.

    python tests/benchmarks/reports.py --out FOLDER

A folder is as `compare` leaves it, with compressed predictions of imaginary networks at three operating points. Each is
reported in a process of its own, that has imported everything before. Counted are the processor seconds of the call
with all its threads, until the page is written, and the most memory that the process has held. *Images* are those of
one fold.

The aims are 15 s for 23 classes × 10,000 images × 6 methods × 5 folds, and 60 s and 2 GB for 300 classes × 100,000
images × 4 methods × 2 folds. The script ends with an error where one is missed. `--quick` leaves the large ones out,
and `--keep` keeps the folders, to be used again."""
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from common import machine, write_table
from fastcore.script import call_parse, store_true

# What is reported: classes, images of a fold, methods, folds, patients?; aims in processor seconds and MB
SETTINGS = [
    (4, 1000, 3, 3, False, None, None),
    (23, 10_000, 6, 5, False, 15, None),
    (23, 10_000, 6, 5, True, 15, None),
    (121, 20_000, 4, 2, False, None, None),
    (300, 100_000, 4, 2, False, 60, 2000),
]
METHODS = 'instance','class','balmix_0.2','sqrt','focal','mixup'
POINTS = {'as trained':.6, 'train prevalence':1., 'balanced prior':0.}
ROWS = 20_000 # drawn at a time

def probabilities(y, prior, t, method, fold):
    "Answers of an imaginary network at one operating point, (N,K); the same evidence at each point"
    rng,parts = np.random.default_rng([fold,METHODS.index(method)]),[]
    for i in range(0, len(y), ROWS):
        true = y[i:i+ROWS]
        z = rng.standard_normal((len(true),len(prior)), dtype=np.float32)
        # a few classes are near each other, the others far, as in a network that has learned
        z = 2.5*z
        z[np.arange(len(true)),true] += 5+.3*METHODS.index(method)
        z += np.float32(t)*np.log(prior).astype(np.float32)
        np.exp(z-z.max(1, keepdims=True), out=z)
        parts.append(z/z.sum(1, keepdims=True))
    return np.concatenate(parts)

def write_npz(path, arrays):
    "As `np.savez_compressed` does, but in less time"
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name,make in arrays.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as f: np.lib.format.write_array(f, make())

def score_rows(y, answers, k):
    "Scores of a run by operating point"
    from fastai_balmix.metrics import score_registry
    from fastai_balmix.metrics.scores import confusion
    keys = 'mcc','balanced_accuracy','macro_f1','geometric_mean','accuracy'
    cms = {point: confusion(o, y, k) for point,o in answers.items()}
    return [dict(point=point, **{o: float(score_registry[o].func(cm)) for o in keys}, n_images=len(y))
            for point,cm in cms.items()]

def write_run(folder, method, fold, y, prior, grouped):
    "What a run leaves behind; gives its record"
    run,answers,n = f'{method}-small-{fold}-0',{},len(y)
    counts = np.maximum(np.round(4*n*prior), 2)
    def make(point):
        p = probabilities(y, prior, POINTS[point], method, fold)
        answers[point] = p.argmax(1)
        return p
    arrays = {
        'paths': lambda: np.array([f'images/{fold}/{i:06}.jpg' for i in range(n)]), 'targs': lambda: y,
        'plain': lambda: make('as trained'), **{f'probs/{o}': lambda o=o: make(o) for o in POINTS}}
    if grouped: arrays['groups'] = lambda: np.array([f'{fold}-{i//3}' for i in range(n)])
    path = folder/'runs'/run
    path.mkdir(parents=True)
    write_npz(path/'predictions.npz', {f'report/{k}':v for k,v in arrays.items()})
    common = dict(method=method, arch='small', fold=fold, seed=0, part='report')
    history = [dict(train_loss=1/e, valid_loss=1.1/e, mcc=e/50) for e in range(1, 31)]
    record = dict(
        run=run, settings='0123', best_epoch=28, epochs=30, seconds=1., history=history,
        rows=[common|o for o in score_rows(y, answers, len(prior))],
        n_bytes=(path/'predictions.npz').stat().st_size, train_counts=counts.tolist(),
        train_shares=(counts/counts.sum()).tolist(), data='made', fingerprint='f00', versions='fastai 2.8',
        revision='abc', started='2026-01-01T00:00:00', finished='2026-01-01T00:01:00', host='h')
    (path/'run.json').write_text(json.dumps(record))
    return record

def write_comparison(folder, k, n, n_methods, n_folds, grouped):
    "A folder as `compare` leaves it"
    from fastai_balmix.compare.results import results_table
    prior = np.geomspace(1, 1/50, k)
    prior /= prior.sum()
    folder.mkdir(parents=True)
    records = []
    for fold in range(1, n_folds+1):
        rng = np.random.default_rng(fold)
        y = rng.permutation(np.concatenate([np.arange(k), rng.choice(k, n-k, p=prior)]))
        records += [write_run(folder, o, fold, y, prior, grouped) for o in METHODS[:n_methods]]
    results_table(records).to_csv(folder/'results.csv', index=False)
    meta = dict(data='made', vocab=[f'class {i:03}' for i in range(k)], ordered=False, n_folds=n_folds,
                selection='inner', grouped=grouped, notes=[], monitor='mcc', prevalence=None, failed=[],
                fingerprint='f00', version='0.0.1', settings='0123', runs=[o['run'] for o in records])
    (folder/'meta.json').write_text(json.dumps(meta))
    (folder/'settings.yaml').write_text('data: given in Python\n')

def measure(folder):
    "Report a folder in this process; its figures as JSON"
    from fastai_balmix.report.page import report
    start = time.process_time()
    page = report(folder).path
    unit = 1 if sys.platform=='darwin' else 1024
    print(json.dumps(dict(
        cpu=time.process_time()-start, page_mb=page.stat().st_size/1e6,
        megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit/1e6)))

def row_of(setting, folder):
    "Figures of one setting"
    k,n,n_methods,n_folds,grouped,aim,most = setting
    path = folder/f"{k}x{n}x{n_methods}x{n_folds}{'-grouped' if grouped else ''}"
    if not path.exists(): write_comparison(path, k, n, n_methods, n_folds, grouped)
    done = subprocess.run([sys.executable, __file__, '--measured', path], capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    return dict(classes=k, images=n, methods=n_methods, folds=n_folds, patients=grouped, aim_s=aim, aim_mb=most,
                **json.loads(done.stdout.splitlines()[-1]))

@call_parse
def main(
    quick:store_true=False, # The smallest alone
    keep:Path=None, # Folder in which comparisons are kept and found again. Default: one that is removed.
    measured:Path=None, # A folder to report in this process
    out:Path=None # Folder for `reports.csv`. Default: none is written.
):
    "Processor seconds and memory of reports"
    if measured: return measure(measured)
    print(machine())
    print(f"\n{'classes':>8}{'images':>9}{'methods':>9}{'folds':>7}{'patients':>10}{'cpu s':>8}{'MB':>8}{'page MB':>9}")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for o in SETTINGS[:1] if quick else SETTINGS:
            row = row_of(o, Path(keep or temporary))
            rows.append(row)
            print(f"{row['classes']:8}{row['images']:9,}{row['methods']:9}{row['folds']:7}{row['patients']!s:>10}"
                  f"{row['cpu']:8.1f}{row['megabytes']:8.0f}{row['page_mb']:9.2f}", flush=True)
    write_table(rows, out, 'reports')
    if quick: return
    missed = [o for o in rows if (o['aim_s'] or np.inf)<o['cpu'] or (o['aim_mb'] or np.inf)<o['megabytes']]
    if missed: sys.exit(f"missed: {', '.join(str(o['classes'])+' classes' for o in missed)}")
