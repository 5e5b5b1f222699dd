"""Pictures before training, for the names that data sets have: what is drawn is measured, so that no text covers
another. The notebook shows the same pictures to a reader."""
import warnings
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.vision.all import DataLoader, DataLoaders
from test_shorten import kvasir

from fastai_balmix.all import BalancedMixUp, class_distribution, digits_lt, plot_class_distribution, tail_counts

sixty = [f'{a}-finding-{i:02d}-of-the-gastrointestinal-tract-and-its-surroundings'[:60]
         for a in ('mild','severe') for i in range(50)]
plain = [f'a class of some kind {i}' for i in range(100)]
wide = ['W'*30, '$x$', 'W'*29+'i', '息肉'*9]

class Items:
    "Grey images of a tail over classes"
    def __init__(self, counts, classes=None):
        self.targets = np.repeat(np.arange(len(counts)), counts)
        self.classes = classes
    def __len__(self): return len(self.targets)
    def __getitem__(self, i): return torch.full((3,8,8), .5),int(self.targets[i])

def loaders(counts, classes=None): return DataLoaders(DataLoader(Items(counts, classes), bs=4))

def tail(names): return loaders(tail_counts(500, len(names), 100), names)

data = dict(
    digits=digits_lt, two=lambda: loaders([980,20], ['benign','malignant']), few=lambda: loaders([5,4,3], [*'abc']),
    equal=lambda: loaders([7]*10), kvasir=lambda: tail(kvasir), hundred=lambda: tail(plain), sixty=lambda: tail(sixty),
    skin=lambda: loaders([161,2], ['benign naevus of the skin','melanoma']), wide=lambda: loaders([90,30,10,1], wide),
    empty=lambda: loaders([10,0,1], [*'abc']))

@pytest.fixture(autouse=True)
def no_figures_left():
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*Glyph.*') # the test machine may lack Chinese letters
        yield
    plt.close('all')

def drawn_boxes(fig):
    "Boxes of all texts of a figure that are drawn, by text"
    fig.canvas.draw()
    texts = [*fig.texts] # the title is among them
    for ax in fig.axes:
        texts += [ax.title, ax._left_title, *ax.texts, *(ax.get_legend().get_texts() if ax.get_legend() else [])]
        if not ax.axison: continue
        low,high = ax.get_xlim()
        ticks = [o for x,o in zip(ax.get_xticks(), ax.get_xticklabels()) if low<=x<=high]
        texts += [ax.xaxis.label, ax.yaxis.label, *ticks, *ax.get_yticklabels()]
    return [(o.get_text(),o.get_window_extent()) for o in texts if o.get_text().strip()]

def check_readable(fig):
    "No text covers another, and none is cut"
    boxes = drawn_boxes(fig)
    for (text,a),(other,b) in combinations(boxes, 2):
        assert not a.padded(-.5).overlaps(b.padded(-.5)), (text,other)
    for text,box in boxes:
        assert fig.bbox.padded(1).containsx(box.x0) and fig.bbox.padded(1).containsx(box.x1), text
        assert fig.bbox.padded(1).containsy(box.y0) and fig.bbox.padded(1).containsy(box.y1), text
    return [text for text,_ in boxes]

@pytest.mark.thinned(4)
@pytest.mark.parametrize('name', data)
@pytest.mark.parametrize('args', [dict(), dict(n=1, quantiles=(.5,.9)), dict(n=2, figsize=(7,3.5))])
def test_labels_of_pairs_can_be_read(name, args):
    axs = BalancedMixUp(.2, seed=1).show(data[name](), **args)
    texts = check_readable(axs[0,0].figure)
    for dpi in 60,72,150: # letters are drawn on whole pixels
        axs[0,0].figure.dpi = dpi
        check_readable(axs[0,0].figure)
    assert sum('class-balanced partner' in o for o in texts)==1
    for first,second,*mixed in axs:
        first,second = first.get_title(),second.get_title()
        assert first!=second and '\n' not in first+second
        for o in mixed:
            lines = o.get_title().split('\n')
            assert [line.rpartition(': ')[0] for line in lines]==[first,second]
            assert sum(int(line.rpartition(': ')[2][:-1]) for line in lines)==100

def test_different_classes_come_first_and_rare_partners():
    axs = BalancedMixUp(.2, seed=3).show(digits_lt(), n=3)
    assert [o.get_title() for o in axs[:,1]]==['9','8','7']
    axs = BalancedMixUp(.2, seed=3).show(loaders([980,20], ['benign','malignant']), n=4)
    assert [o.get_title() for o in axs[:,1]].count('malignant')==4 or len({o.get_title() for o in axs[:,1]})==2
    one = BalancedMixUp(.2, seed=3).show(loaders([8], ['a']), n=2) # no other class to mix with
    assert {o.get_title() for o in one.flat}=={'a'}

@pytest.mark.parametrize('name', data)
def test_bars_have_names_and_counts(name):
    dls = data[name]()
    ax = plot_class_distribution(dls)
    df = class_distribution(dls)
    texts = check_readable(ax.figure)
    np.testing.assert_allclose([o.get_width() for o in ax.patches], df.images)
    for line,values in zip(ax.lines, (df['class'],df.balmix), strict=True):
        assert line.get_linestyle()=='None'
        np.testing.assert_allclose(line.get_xdata(), values)
    if len(df)<=30:
        names = [o.get_text() for o in ax.get_yticklabels()]
        assert len({*names})==len(df)
        assert [o.get_text() for o in ax.texts]==[f'{n:,}' for n in df.images]
    else: assert not ax.texts and any(o.startswith('100 classes by size, from') for o in texts)

def test_ticks_of_a_long_tail():
    ax = plot_class_distribution(loaders(tail_counts(2000, 10, 2000)))
    ax.figure.canvas.draw()
    low,high = ax.get_xlim()
    ticks = [o.get_text() for x,o in zip(ax.get_xticks(), ax.get_xticklabels()) if low<=x<=high]
    assert ticks==['1','3','10','30','100','300','1,000','3,000']
