"""Methods on long-tailed Fashion-MNIST, each seed with a tail of its own, as trained and at equal operating points.

    python tests/benchmarks/operating_points.py --out points

Each seed draws 4,964 training images anew (2,000 of the most frequent class, 20 of the rarest) and shuffles which class is how frequent, so that the differences are those of data sets, not of a network's start; a selection split has a fifth more images with the
same tail, the 10,000 test images are balanced and read at the training prevalence. `compare` trains a small network from scratch, 15 epochs, with flips and shifts of up to 2 pixels, and predicts with flip TTA. MCC at the training prevalence and balanced
accuracy in percent, of each network as it was trained, and moved to the training prevalence (MCC) and to equal shares (balanced accuracy) by `PriorCalibrator`. Differences to instance sampling are paired over seeds, with their 95 % t-interval.

Finished runs are kept in `--out`; a second call goes on with those that are missing, and prints the tables of all. A run takes about a minute and a half on one core. The data are those of Debian's package dataset-fashion-mnist."""
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastcore.script import call_parse
from scipy import stats
from fastai_balmix.data import fashion_mnist_lt
from fastai_balmix.protocol import compare

columns = {'as trained, MCC':('as trained','mcc'), 'as trained, balanced accuracy':('as trained','balanced_accuracy'),
           'calibrated, MCC':('train prevalence','mcc'), 'calibrated, balanced accuracy':('balanced prior','balanced_accuracy')}

@call_parse
def main(
    out:Path='points', # Folder of results, one folder for each seed in it
    seeds:int=7, # Number of data sets
    epochs:int=15, # Epochs of a run
    methods:str='instance,class,sqrt,balmix_0.2,balmix_pair' # Names, see `balmix-compare --list`
):
    "Train every method on every data set, and print tables"
    torch.set_num_threads(1)
    runs = [compare(fashion_mnist_lt(seed=s, shuffle_classes=True), methods.split(','), 'small', seeds=[s], epochs=epochs, out=out/str(s), size=None, bs=64, lr=.05, mom=.9, wd=5e-4,
                    augment='light', normalise='half', pretrained=False).df for s in range(seeds)]
    df = pd.concat(runs).query("part=='report'").set_index(['method','seed','point'])
    table = 100*pd.DataFrame({k: df.xs(point, level='point')[metric] for k,(point,metric) in columns.items()})
    names = methods.split(',')
    print(f'\n{seeds} seeds, {epochs} epochs; mean over seeds\n\n{table.groupby("method").mean().loc[names].round(1).to_string()}')
    if 'instance' not in names or seeds<2: return
    d = (table - table.xs('instance').reindex(table.index, level='seed')).groupby('method')
    half = stats.t.ppf(.975, seeds-1)*d.std(ddof=1)/np.sqrt(seeds)
    words = d.mean().map('{:+.1f}'.format) + ' ± ' + half.map('{:.1f}'.format)
    print(f'\nless instance sampling, paired over seeds, with 95 % intervals\n\n{words.loc[[o for o in names if o!="instance"]].to_string()}')
