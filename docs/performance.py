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

performance_head = '''# Performance

Written by `make bench` from the tables in `docs/measured`. Everything is a ratio within one run, or was measured in
turns: the seconds of a machine that others use too mean little.
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

**Items, N.** Labels are read once for a loader and kept, 8 bytes an item. A sampler takes 4 to 8 bytes an item and is
kept too. Each epoch fastai shuffles a list of N numbers; λ and partners add another such list. A cache has a table of
8 bytes an item, and beside it no more than the size that was asked for.

**Classes, K.** A draw looks its class up in a table, whatever K is. A confusion matrix takes 8·K² bytes, 8 MB for a
thousand classes, however many images are validated.

**Batch, B.** Mixing reads and writes a batch once. Memory for a batch of pairs is twice that of the inputs until it is
mixed; what the network keeps for its gradients, which is most, stays that of B.

**Files on network storage.** What counts is how often a file is asked for. Balanced-MixUp asks for 1 + (1 - 255^-α)
files an item, and the second image of a rare class has soon been read before: a cache keeps rare classes first. With
items that take 5 ms to arrive and 2 workers, in this table the plain epoch is 1, and everything kept is read from the
second epoch on:

{markdown(remote)}

**Many GPUs.** Under distributed training each process draws λ and partners for its share of the items by itself.
Beside what a plain epoch of fastai sends, the list of N numbers, nothing is exchanged for them. Each process has a
cache of its own, of its own size: give each a share of the memory.
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
    parts = dict(epochs=epochs_text, draws=draws_text, decoding=decoding_text, metrics=scores_text)
    page('performance.md', performance_head, parts)
    page('growing.md', growing_head, dict(growing=growing_text))
