"""What stays of the comparison on Fashion-MNIST: `python docs/keep.py FOLDER` makes it from the folder that

    balmix-compare --preset fashion --jobs 2 --out FOLDER

has written. Its probabilities take 40 MB. nbs/tutorials/fashion, which a tutorial reads, keeps the scores; of all runs
the predicted classes, which suffice for every test of `summarise`; and of two the probabilities, rounded.
docs/measured/fashion.csv holds the figures of the summary, fashion_table.csv the differences from instance sampling as
they are printed."""
import io
import json
import shutil
import sys
from pathlib import Path
from zipfile import ZIP_LZMA, ZipFile

import numpy as np
import pandas as pd

from fastai_balmix.compare.results import Results
from fastai_balmix.compare.summary import summarise
from fastai_balmix.datasets.longtail import tail_counts

root = Path(__file__).resolve().parent.parent
sys.path.append(str(root/'tests'/'benchmarks'))
from common import machine

points = 'as trained','train prevalence','balanced prior'
whole = 'instance','balmix_0.2' # of these the first seed's probabilities stay


def keep(
    res, # `Results`
    folder # Where what stays goes
):
    "Scores, settings, predicted classes of the test images; and records and probabilities of two runs"
    folder.mkdir(parents=True, exist_ok=True)
    df = res.df[res.df.part=='report'].drop(columns=['host','seconds']).round(6)
    df.to_csv(folder/'results.csv', index=False)
    (folder/'meta.json').write_text(json.dumps(res.meta, indent=1)+'\n')
    shutil.copy(res.folder/'settings.yaml', folder)
    runs = [*df.run.unique()]
    preds = {run: res.predictions(run) for run in runs}
    targs = preds[runs[0]]['targs']
    for p in preds.values():
        if not np.array_equal(p['targs'], targs) or [*p['paths']]!=[f'test/{i}' for i in range(len(targs))]:
            raise ValueError('These runs were tested on other images, or in another order.')
    answers = np.array([[preds[run]['probs'][o].argmax(1) for o in points] for run in runs], np.uint8)
    # Images first, (N,runs,points), so that what networks agree on stands together
    answers = answers.transpose(2, 0, 1)
    two = df[df.method.isin(whole) & (df.seed==df.seed.min())].run.unique()
    def in_steps(probs):
        "Probabilities in steps of 6 %"
        return np.rint(-16*np.log(np.maximum(probs, 1.3e-7))).astype(np.uint8)
    arrays = dict(answers=answers, targs=targs.astype(np.uint8), runs=runs, points=points)
    for o in two: arrays[o] = in_steps(preds[o]['probs']['as trained'])
    with ZipFile(folder/'answers.npz', 'w', ZIP_LZMA) as z: # an .npz file, smaller than numpy makes it
        for k,v in arrays.items():
            with z.open(f'{k}.npy', 'w') as f: np.lib.format.write_array(f, np.ascontiguousarray(v))
    wanted = 'history','calibration','train_shares','best_epoch','seconds'
    records = {o: {k: v for k,v in res.record(o).items() if k in wanted} for o in two}
    for o in records.values(): o['train_counts'] = tail_counts(2000, 10, 100).tolist()
    (folder/'records.json').write_text(json.dumps(records)+'\n')


def figures(
    res # `Results`
)->pd.DataFrame: # A row for each method, operating point and score, in percent
    "Means, and differences from instance sampling, with their 95 % intervals"
    s = summarise(res, metrics=['mcc','balanced_accuracy','macro_f1'])
    columns = ['method','point','metric','runs','mean','low','high','diff','diff_low','diff_high','p_both','shown']
    df = pd.read_csv(io.StringIO(s.to_csv()))[columns].rename(columns=dict(p_both='p'))
    percent = ['mean','low','high','diff','diff_low','diff_high']
    df[percent] = (100*df[percent]).round(2)
    command = 'balmix-compare --preset fashion --jobs 2 --out FOLDER'
    return df.round({'p':4}).assign(command=command, versions=res.df.versions.iloc[0], machine=machine())


def printed(
    df # As of `figures`
)->pd.DataFrame: # A row for each score and method, a column for each operating point
    "Differences from instance sampling, with their intervals, in points"
    d = df[(df.method!='instance') & (df.metric!='macro_f1')]
    cells = [f'{o.diff:+.1f} ({o.diff_low:+.1f} to {o.diff_high:+.1f})' for o in d.itertuples()]
    d = d.assign(cell=cells, metric=d.metric.map(dict(mcc='MCC', balanced_accuracy='balanced accuracy')))
    order = d.set_index(['metric','method']).index.unique()
    return d.pivot(index=['metric','method'], columns='point', values='cell').loc[order,[*points]].reset_index()


if __name__=='__main__':
    res = Results(sys.argv[1])
    keep(res, root/'nbs'/'tutorials'/'fashion')
    out = root/'docs'/'measured'
    out.mkdir(exist_ok=True)
    df = figures(res)
    df.to_csv(out/'fashion.csv', index=False)
    printed(df).to_csv(out/'fashion_table.csv', index=False)
