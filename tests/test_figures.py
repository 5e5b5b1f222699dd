"""The notebook shows each figure once. Here they are drawn for two classes and for a hundred, and their
colours are measured."""

import re
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import fastai_balmix
from fastai_balmix.metrics.scores import per_class
from fastai_balmix.report.answers import recall_change, worst_mistakes
from fastai_balmix.report.figures import (
    label,
    plot_confusion,
    plot_per_class,
    plot_recall_change,
    plot_shares,
    series,
    top_mistakes,
)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')

def close(a, b, tol=1e-9): np.testing.assert_allclose(a, b, rtol=tol, atol=tol)

def matrix(k, seed=0):
    rng = np.random.default_rng(seed)
    n = np.maximum(np.geomspace(1000, 6, k).astype(int), 6)[rng.permutation(k)]
    return np.stack([rng.multinomial(m, .7*np.eye(k)[i]+.3/k) for i,m in enumerate(n)])

def boxes(texts, ax): return [t.get_window_extent(ax.figure.canvas.get_renderer()) for t in texts if t.get_text()]

def apart(texts, ax): return all(not a.overlaps(b) for a,b in zip(boxes(texts, ax), boxes(texts, ax)[1:]))

@pytest.mark.parametrize('k', [2,23,100])
@pytest.mark.parametrize('by_row', [True,False])
def test_confusion_can_be_read(k, by_row):
    cm,names = matrix(k),[f'a class of some kind {i}' for i in range(k)]
    ax = plot_confusion(cm, names, by_row)
    ax.figure.canvas.draw()
    first = [t.get_text() for t in ax.get_yticklabels()]
    order = np.argsort(-cm.sum(1), kind='stable')
    assert first[0]==names[order[0]]
    assert first==[names[i] for i in order][::len(names)//len(first) if k>30 else 1][:len(first)]
    assert apart(ax.get_yticklabels(), ax) and 2<=len(first)<=60
    if k>30: assert not ax.texts
    else:
        assert len(ax.texts)==(cm>0).sum()
        cell = ax.get_window_extent().width/k
        assert all(b.width<=cell for b in boxes(ax.texts, ax))
        # the first cell is the largest class's recall, or its images
        want = cm[order[0],order[0]]/(cm[order[0]].sum()/100 if by_row else 1)
        assert ax.texts[0].get_text()==f'{want:.0f}'

def test_grades_stay_in_their_order():
    ax = plot_confusion(matrix(5), [*'edcba'], ordered=True)
    assert [t.get_text() for t in ax.get_xticklabels()]==[*'edcba']

@pytest.mark.parametrize('k', [2,23,100])
def test_classes_can_be_read(k):
    t = per_class(matrix(k), [f'class {i}' for i in range(k)])
    ax = plot_per_class({'one':t, 'two':t})
    ax.figure.canvas.draw()
    assert apart(ax.get_xticklabels(), ax)
    close(ax.lines[0].get_ydata(), 100*t.recall.iloc[np.argsort(-t.support.to_numpy(), kind='stable')])
    change = recall_change(np.ones(k), np.arange(k)%2, np.arange(k))
    plot_recall_change(change)
    plot_shares({'a':np.full(k, 1/k), 'b':np.full(k, 1/k)})

def test_mistakes_are_shown_with_what_was_said_of_them():
    p = np.array([[.9,.1],[.2,.8],[.6,.4],[.3,.7]])
    m = worst_mistakes(p, [1,1,1,0], ['w.jpg','x.jpg','y.jpg','$z$.jpg'], ['no','yes'])
    assert m.path.tolist()==['w.jpg','$z$.jpg','y.jpg']
    close(m.of_true, [.1,.3,.4])
    axs = top_mistakes(m, [np.zeros((4,4)),None,np.zeros((4,4,3))], cols=2)
    assert axs.shape==(2,2) and axs[0,0].get_title()=='no (90 %)\nis yes\nw.jpg'
    assert [len(a.images) for a in axs.flat]==[1,0,1,0]
    axs[0,0].figure.canvas.draw()

def test_labels(): assert label('a\n\t b\u202e$') == r'a b\$' and label('x'*50)=='x'*23+'…' and label('\x00')==''

def test_no_two_series_look_the_same():
    looks = [(s['color'],s['marker'],s['ls']) for s in map(series, range(84))]
    assert len({*looks})==84

# Linear RGB as seen with deuteranopia, protanopia, tritanopia: Machado, Oliveira and Fernandes 2009, severity 1
SEEN = dict(all=np.eye(3), deutan=[[.367322,.860646,-.227968],[.280085,.672501,.047413],[-.011820,.042940,.968881]],
    protan=[[.152286,1.052583,-.204868],[.114503,.786281,.099216],[-.003882,-.048116,1.051998]],
            tritan=[[1.255528,-.076749,-.178779],[-.078411,.930809,.147602],[.004733,.691367,.303900]])

def linear(hexa): return np.array([(c/12.92 if c<=.04045 else ((c+.055)/1.055)**2.4)
        for c in (int(hexa[i:i+2], 16)/255 for i in (1,3,5))])

def lab(rgb):
    xyz = np.array([[.4124564,.3575761,.1804375],[.2126729,.7151522,.0721750],
        [.0193339,.1191920,.9503041]])@np.clip(rgb, 0, 1)/[.95047,1,1.08883]
    f = np.where(xyz>216/24389, np.cbrt(xyz), (24389/27*xyz+16)/116)
    return np.array([116*f[1]-16,500*(f[0]-f[1]),200*(f[1]-f[2])])

def test_colours_are_told_apart_with_any_colour_vision_and_stand_out():
    css = (Path(fastai_balmix.__file__).parent/'report'/'report.css').read_text()
    for block in re.findall(r':root \{(.*?)\}', css, flags=re.S):
        v = dict(re.findall(r'--(\w+):(#\w+)', block))
        cs = [v[f'c{i}'] for i in range(6)]
        page = linear(v['page'] if len(v['page'])==7 else '#ffffff')
        for c in cs:
            a,b = sorted((linear(c)@[.2126,.7152,.0722],page@[.2126,.7152,.0722]))
            assert (b+.05)/(a+.05)>=3, (c,v['page'])
        for kind,m in SEEN.items():
            for a,b in combinations(cs,
                    2): assert np.linalg.norm(lab(np.array(m)@linear(a))-lab(np.array(m)@linear(b)))>11, (kind,a,b)
