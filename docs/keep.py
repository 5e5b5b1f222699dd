"""What stays of the comparison on Fashion-MNIST: `python docs/keep.py FOLDER` makes it from the folder that

    balmix-compare --preset fashion --jobs 2 --out FOLDER

has written. All scores stay, and of the predicted probabilities, which would take 17 MB, the classes, which suffice for every test of
`summarise`: in nbs/tutorials/fashion, which the tutorial reads. docs/measured/fashion.csv holds the figures of the summary."""
import json,shutil,sys
from pathlib import Path

import numpy as np
import pandas as pd
from fastai_balmix.runs import Results
from fastai_balmix.summary import summarise

root = Path(__file__).resolve().parent.parent
sys.path.append(str(root/'tests'/'benchmarks'))
from common import machine

points = 'as trained','train prevalence','balanced prior'
command = 'balmix-compare --preset fashion --jobs 2 --out FOLDER'


def keep(
    res, # `Results`
    folder # Where what stays goes
):
    "The table of scores, what is common to all runs, and the predicted classes of the test images"
    folder.mkdir(parents=True, exist_ok=True)
    res.df.drop(columns=['host','started','seconds']).round(6).to_csv(folder/'results.csv', index=False)
    (folder/'meta.json').write_text(json.dumps(res.meta, indent=1)+'\n')
    shutil.copy(res.folder/'settings.yaml', folder)
    preds = {run: res.predictions(run) for run in res.df.run.unique()}
    first = next(iter(preds.values()))
    for p in preds.values(): assert np.array_equal(p['paths'], first['paths']) and np.array_equal(p['targs'], first['targs'])
    # images last, so that what networks agree on stands together
    answers = np.stack([[p['probs'][o].argmax(1) for o in points] for p in preds.values()], -1).astype(np.uint8) # (points, N, runs)
    np.savez_compressed(folder/'answers.npz', answers=answers.transpose(1, 0, 2), targs=first['targs'].astype(np.uint8), runs=[*preds], points=points)


def figures(
    res # `Results`
)->pd.DataFrame: # A row for each method, operating point and score, in percent
    "Means, and differences from instance sampling, with their 95 % intervals"
    s = summarise(res, metrics=['mcc','balanced_accuracy','macro_f1'])
    df = pd.read_csv(pd.io.common.StringIO(s.to_csv()))
    df = df[['method','point','metric','runs','mean','low','high','diff','diff_low','diff_high','p_both','shown']].rename(columns=dict(p_both='p'))
    percent = ['mean','low','high','diff','diff_low','diff_high']
    df[percent] = (100*df[percent]).round(2)
    return df.round({'p':4}).assign(command=command, versions=res.df.versions.iloc[0], machine=machine())


if __name__=='__main__':
    res = Results(sys.argv[1])
    keep(res, root/'nbs'/'tutorials'/'fashion')
    out = root/'docs'/'measured'/'fashion.csv'
    out.parent.mkdir(exist_ok=True)
    figures(res).to_csv(out, index=False)
