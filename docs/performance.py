"""docs/performance.md and docs/growing.md, with their figures, from the tables in docs/measured. `make bench` runs it
after the measurements; nothing is measured here."""
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from fastcore.script import call_parse

matplotlib.use('agg')
import matplotlib.pyplot as plt

docs = Path(__file__).resolve().parent

def markdown(df):
    "A table whose cells are strings"
    rows = [df.columns, ['---']*df.shape[1], *df.astype(str).values]
    return '\n'.join(f"| {' | '.join(map(str, o))} |" for o in rows)

def save(fig, name, out):
    "Keep a figure beside the page; its address there"
    (out/'images').mkdir(exist_ok=True)
    fig.savefig(out/'images'/f'performance-{name}.png', dpi=90, bbox_inches='tight')
    plt.close(fig)
    return f'images/performance-{name}.png'

def names(df): return [r.work if pd.isna(r.alpha) else f'{r.work}, α = {r.alpha:g}' for r in df.itertuples()]

def formatted(column, form):
    "A column as strings, '' where there is nothing"
    return column.map(lambda o: '' if pd.isna(o) else form.format(o))

def epochs_figure(df):
    "Ratios with their spread, and what was aimed at"
    df = df.iloc[::-1]
    y = np.arange(len(df))
    fig,ax = plt.subplots(figsize=(7, .45*len(df)+1))
    colours = ['#4477aa' if a=='plain' else '#228833' for a in df.against]
    spread = [df.ratio-df.low, df.high-df.ratio]
    ax.barh(y, df.ratio, color=colours, xerr=spread, error_kw=dict(ecolor='#333333', capsize=2))
    ax.plot(df.target, y, '|', color='#ee6677', markersize=16, markeredgewidth=3, label='aim')
    ax.axvline(1, color='#333333', linewidth=.8, linestyle='--')
    ax.set_yticks(y, [f'{r}  {n}' for r,n in zip(df.row, names(df))])
    ax.set_xlabel('time of an epoch, as a multiple')
    ax.legend(loc='lower right')
    return fig

def growing_figure(df):
    "Seconds over size, a panel each for items, classes and batches"
    fig,axs = plt.subplots(1, 3, figsize=(14, 4))
    for ax,(kind,label) in zip(axs, dict(N='items N', K='classes K', B='batch size B').items()):
        for part,g in df[df.grows==kind].groupby('part', sort=False):
            s = g.slope.iloc[0]
            ax.loglog(g['size'], g.seconds, 'o-', markersize=4, label=part+('' if np.isnan(s) else f' ({s:.2f})'))
        ax.set_xlabel(label)
        ax.set_ylabel('seconds')
        ax.grid(alpha=.3)
        ax.legend(fontsize=7, frameon=False, loc='lower left', bbox_to_anchor=(0,1)) # above, where no line is
    return fig

def epochs_text(df, out):
    cells = pd.DataFrame({
        '': df.row, 'work': names(df), 'against': df.against, 'times': formatted(df.ratio, '{:.2f}'),
        'from, to': [f'{low:.2f} to {high:.2f}' for low,high in zip(df.low, df.high)],
        'aim': formatted(df.target, '{:.2f}'),
        'processor time, aim': [f'{cpu:.2f}, {aim:.2f}' for cpu,aim in zip(df.cpu, df.cpu_target)],
        'loading s': formatted(df.s, '{:.2f}'), 'batches mixed': formatted(df.mixed, '{:.0%}')})
    return f'''## An epoch

The time of a training epoch with `BalancedMixUp` as a multiple of the same epoch without it, or with fastai's `MixUp`:
same learner, loader and seed, in one process, in turns. Shown are the median over {df.repetitions.min()} rounds or
more, the smallest and the largest. *s* is the share of loading in the plain epoch; the aim of row a, 1 + s·(1 -
255^-α) + 0.05, is what the work itself demands, as a second image is loaded for that share of batches. *Processor
time* is the same ratio in processor seconds, of all processes together, which other programs on the machine hardly
disturb, with its aim. The head of `tests/benchmarks/epochs.py` says what each row is. (`python
tests/benchmarks/epochs.py --out docs/measured`)

![Bars of time ratios, one for each row of the table, with the aims]({save(epochs_figure(df), 'epochs', out)})

{markdown(cells)}

What binds in rows a to d is opening files and resizing pictures. `dls.cached('2GB')` makes that once for every
picture, so the epochs after the first pay a copy instead.
'''

def ratios_of(df):
    "Rows of ratios as cells"
    return pd.DataFrame({
        '': df.row, 'work': df.work, 'measured': df.measured, 'against': df.against,
        'times': formatted(df.ratio, '{:.3f}'),
        'from, to': [f'{low:.3f} to {high:.3f}' for low,high in zip(df.low, df.high)],
        'aim': [f"{'≥' if larger else '≤'} {aim:.2f}" for larger,aim in zip(df.larger, df.target)],
        'processor time': formatted(df.cpu, '{:.3f}')})

def loading_text(df, out):
    return f'''## Loading

What a loader costs by itself, with images that were prepared (`data.dataloaders(pictures=prepare(data, size))`) and
without, as a multiple of fastai's loader of the same files. Measured in turns; shown are the median over rounds, the
smallest and the largest. The head of `tests/benchmarks/loading.py` says what each row is. (`python
tests/benchmarks/loading.py --out docs/measured`)

{markdown(ratios_of(df))}

Row d is the time of copying over that of loading: the share of the machine's speed of copying that the loader reaches.
'''

def comparisons_text(df, out):
    return f'''## A comparison

What files cost a comparison once their images are prepared, as a multiple of the same work on tensors that lie in
memory. Rows a to c are epochs of training, in turns; rows d and e are whole comparisons, of which the measured one
makes its store on the way. The head of `tests/benchmarks/comparisons.py` says what each row is. (`python
tests/benchmarks/comparisons.py --out docs/measured`)

{markdown(ratios_of(df))}
'''

def parts_text(df, out):
    first = df.iloc[0]
    cells = {'part': [*df.part.unique()], 'paid': [*df.drop_duplicates('part').paid]}
    of_training = 'forward','loss','backward','optimiser'
    network = []
    for (size,files),g in df.groupby(['size','files'], sort=False):
        shares = formatted(g.share, ', {:.1%}')
        cells[f'{size} pixels, from {files}'] = [f'{cpu:.2f} s{share}' for cpu,share in zip(g.cpu, shares)]
        epochs = g[g.paid=='an epoch']
        share = epochs.cpu[epochs.part.isin(of_training)].sum()/epochs.cpu.sum()
        network.append(f'{share:.0%} at {size} pixels')
    return f'''## Where the time of a comparison goes

One run of Balanced-MixUp 0.2 with the small network: {first.epochs} epochs, two thirds of {first.images} images
for training and choosing the epoch, in a new process with one thread. Shown are processor seconds, the median over
{first.repetitions} processes, because the machine was not free. Other programs stretch them somewhat, and the shares
hardly. A part counts what none of the parts inside it has. The head of `tests/benchmarks/parts.py` says what each part
is. (`python tests/benchmarks/parts.py --out docs/measured`)

{markdown(pd.DataFrame(cells))}

*process* is what a run of its own process pays in place of *start*, with `--jobs`. Of what each epoch costs, the
arithmetic of the network (forward, loss, backward, optimiser) takes {' and '.join(network)}.
'''

def arithmetic_text(df, out):
    cells = pd.DataFrame({
        '': df.row, 'measured': df.measured, 'against': df.against, 'times': formatted(df.ratio, '{:.3f}'),
        'from, to': [f'{low:.3f} to {high:.3f}' for low,high in zip(df.low, df.high)],
        'aim': formatted(df.target, '≤ {:.2f}'), 'processor time': formatted(df.cpu, '{:.3f}')})
    return f'''## Half precision on the CPU

Epochs of MobileNetV2 at 224 pixels, of images in memory, in turns: the median over {df.repetitions.min()} rounds,
the smallest and the largest. The processor has bfloat16 in hardware. (`python tests/benchmarks/arithmetic.py --out
docs/measured`)

{markdown(cells)}
'''

def draws_text(df, out):
    cells = pd.DataFrame({
        'what': df.what, 'n': formatted(df.n, '{:,}'), 'ours, s': formatted(df.ours_s, '{:.3f}'),
        'other, s': formatted(df.other_s, '{:.3f}'), 'times as fast': formatted(df.ratio, '{:.1f}'),
        'from, to': df.spread})
    return f'''## Draws and labels

Balanced draws beside `np.random.choice(n, n, p=...)` and fastai's `WeightedDL`, and the labels of a loader's items
beside fastai's own way through its pipeline. (`python tests/benchmarks/draws.py --out docs/measured`)

{markdown(cells)}
'''

def decoding_text(df, out):
    cells = pd.DataFrame({
        'photographs': df.what, 'size': df['size'], 'full, ms': formatted(df.full_ms, '{:.0f}'),
        'fast, ms': formatted(df.fast_ms, '{:.0f}'), 'times as fast': formatted(df.ratio, '{:.2f}'),
        'from, to': df.spread,
        'mean difference': formatted(df.mean_diff, '{:.2f}'), 'largest': formatted(df.max_diff, '{:.0f}')})
    return f'''## Decoding large photographs

`decode='fast'` of the readers reads a JPEG at half, a quarter or an eighth of its size where that leaves twice what is
needed. Differences are in grey levels of 255, on the resized picture. (`python tests/benchmarks/decoding.py --out
docs/measured`)

{markdown(cells)}
'''

def scores_text(df, out):
    cells = pd.DataFrame({
        'from': df.what, 'beside': df.other, 'ours, s': formatted(df.ours_s, '{:.4f}'),
        'other, s': formatted(df.other_s, '{:.4f}'), 'times as fast': formatted(df.ratio, '{:.0f}'),
        'from, to': df.spread})
    return f'''## Scores

MCC, balanced accuracy, macro-F1, quadratic κ and Kendall's τ-b of {df.n.iloc[0]:,} predictions. (`python
tests/benchmarks/metrics.py --out docs/measured`)

{markdown(cells)}
'''

def reports_text(df, out):
    cells = pd.DataFrame({
        'classes': df.classes, 'images of a fold': formatted(df.images, '{:,}'), 'methods': df.methods,
        'folds': df.folds, 'patients': df.patients.map({True:'known', False:'not known'}),
        'processor s': formatted(df.cpu, '{:.1f}'), 'aim, s': formatted(df.aim_s, '{:.0f}'),
        'MB': formatted(df.megabytes, '{:,.0f}'), 'aim, MB': formatted(df.aim_mb, '{:,.0f}'),
        'page, MB': formatted(df.page_mb, '{:.1f}')})
    return f'''## Reports

Processor seconds of `report`, from a folder of results to the page, and the most memory that its process has held,
with all packages imported. (`python tests/benchmarks/reports.py --out docs/measured`)

{markdown(cells)}

Predictions are unpacked once, one array at a time. What is kept of them are a few numbers for each image.
'''

performance_head = '''# Performance

Written by `make bench` from the tables in `docs/measured`. All figures are ratios within one run, or were
measured in turns, because the seconds of a shared machine mean little.
'''

growing_head = '''# Growing

What each part costs as data grow.
'''

def growing_text(df, out):
    parts,store = df[df.grows!='storage'],df[df.grows=='storage']
    last = parts.groupby('part', sort=False).tail(1)
    cells = pd.DataFrame({
        'grows with': last.grows, 'part': last.part, 'slope': formatted(last.slope, '{:.2f}').replace('', 'none seen'),
        'at': formatted(last['size'], '{:,}'), 'seconds': formatted(last.seconds, '{:.4f}'),
        'MB': formatted(last.megabytes, '{:.0f}')})
    remote = pd.DataFrame({'epoch': store.part, 'times plain': store.ratio.map('{:.2f}'.format)})
    return f'''Over three decades: the slope of a straight line through the logarithms of size and seconds, and seconds
and memory at the largest size. A slope of 1 means that ten times as many take ten times as long.
(`python tests/benchmarks/growing.py --out docs/measured`)

![Seconds over size on logarithmic axes: items, classes and batch size]({save(growing_figure(parts), 'growing', out)})

{markdown(cells)}

**Items, N.** Labels are read once for a loader and stored, 8 bytes an item. A sampler takes 4 to 8 bytes an item and is
stored too. Each epoch fastai shuffles a list of N numbers; λ and partners add another such list. A cache has a table of
8 bytes an item, in addition to its stated size.

**Classes, K.** A draw looks its class up in a table, whatever K is. A confusion matrix takes 8·K² bytes, 8 MB for a
thousand classes, however many images are validated.

**Batch, B.** Mixing reads and writes a batch once. Until it is mixed, a batch of pairs takes twice the memory of the
inputs. Most memory is for gradients, and that does not change.

**Files on network storage.** The number of file requests counts. Balanced-MixUp requests 1 + (1 - 255^-α) files an
item. The second image of a rare class has soon been read before, so a cache keeps rare classes first. In this table
items take 5 ms to arrive, there are 2 workers, and a plain epoch is 1. Cached items are read from the second epoch on:

{markdown(remote)}

**Many GPUs.** In distributed training, each process draws λ and partners for its share of the items. Only the list of N
numbers is exchanged, as in any epoch of fastai. Each process has its own cache: give each a share of the memory.
'''

@call_parse
def main(
    measured:Path=docs/'measured', # Folder of the tables
    out:Path=docs # Folder that the pages go to
):
    "Write the pages of those tables that are there"
    def page(fn, head, parts):
        text,machines = [head],set()
        for name,f in parts.items():
            table = measured/f'{name}.csv'
            if not table.exists(): continue
            df = pd.read_csv(table)
            machines |= {*df.machine}
            text.append(f(df, out))
        if not machines: return
        lines = [*text, '## Machine', '', *(f'- {o}' for o in sorted(machines))]
        (out/fn).write_text('\n'.join(lines)+'\n', encoding='utf-8')
    parts = dict(epochs=epochs_text, loading=loading_text, comparisons=comparisons_text, parts=parts_text,
                 arithmetic=arithmetic_text, draws=draws_text, decoding=decoding_text, metrics=scores_text,
                 reports=reports_text)
    page('performance.md', performance_head, parts)
    page('growing.md', growing_head, dict(growing=growing_text))
