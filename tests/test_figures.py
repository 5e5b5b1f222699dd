"""The notebooks show each figure once. Here they are drawn for two classes and for a hundred, with names from any
folder: every text that is drawn is inside the figure and apart from the others. Colours are measured."""

import re
from functools import partial
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import (
    CrossEntropyLossFlat,
    DataLoader,
    DataLoaders,
    ImageDataLoaders,
    Learner,
    Resize,
)
from PIL import Image

import fastai_balmix
from fastai_balmix.datasets import digits, small_net
from fastai_balmix.metrics.probabilities import calibration_bins
from fastai_balmix.metrics.scores import OperatingPoint, per_class
from fastai_balmix.report import (
    plot_comparison,
    plot_confusion,
    plot_errors,
    plot_history,
    plot_operating_curve,
    plot_per_class,
    plot_recall_change,
    plot_reliability,
    plot_roc,
    plot_shares,
    reliability_bins,
    top_mistakes,
    worst_mistakes,
)
from fastai_balmix.report.figures import figure_names, series, series_names
from fastai_balmix.report.kept import keep_answers
from fastai_balmix.report.mistakes import broken_path
from fastai_balmix.report.operating import mean_curve, smoothed
from fastai_balmix.report.sections import svg


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')

def close(a, b, tol=1e-9): np.testing.assert_allclose(a, b, rtol=tol, atol=tol)

def matrix(k, seed=0):
    rng = np.random.default_rng(seed)
    n = np.maximum(np.geomspace(1000, 6, k).astype(int), 6)[rng.permutation(k)]
    return np.stack([rng.multinomial(m, .7*np.eye(k)[i]+.3/k) for i,m in enumerate(n)])

hyper_kvasir = re.findall(r'\S+', """
    barretts barretts-short-segment bbps-0-1 bbps-2-3 cecum dyed-lifted-polyps dyed-resection-margins
    esophagitis-a esophagitis-b-d hemorrhoids ileum impacted-stool polyps pylorus retroflex-rectum retroflex-stomach
    ulcerative-colitis-grade-0-1 ulcerative-colitis-grade-1 ulcerative-colitis-grade-1-2 ulcerative-colitis-grade-2
    ulcerative-colitis-grade-2-3 ulcerative-colitis-grade-3 z-line""")

def long_names(k): return [f'an unusually long class name that ends with number {i:04d}, no?' for i in range(k)]

names_of = {
    'two': ['healthy','polyp'],
    'four': ['$x_1$ costs $5$','a\nb\tc','\u202e\x1b[31mred','病理学的所見のある画像は長い名前'*3],
    'hyper-kvasir': hyper_kvasir, 'long': long_names(12), 'many long': long_names(100),
    'hundred': [f'finding_{i}' for i in range(100)]}

def drawn_texts(figure, monkeypatch):
    "Every text that a figure draws, with its box in pixels"
    found = []
    draw = matplotlib.text.Text.draw
    def recorded(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip(): found.append(self)
        return draw(self, renderer, *args, **kwargs)
    with monkeypatch.context() as m:
        m.setattr(matplotlib.text.Text, 'draw', recorded)
        figure.canvas.draw()
    found = [o for o in dict.fromkeys(found) if not isinstance(o, matplotlib.text.Annotation) or o.get_text()]
    return [(o,o.get_window_extent(figure.canvas.get_renderer())) for o in found]

def check_texts(ax, monkeypatch, names=True):
    "All texts are inside the figure and apart, and no name stands twice on an axis"
    figure = ax.figure
    width,height = figure.get_size_inches()*figure.dpi
    texts = drawn_texts(figure, monkeypatch)
    assert texts
    for o,box in texts:
        assert box.x0>=-1 and box.y0>=-1 and box.x1<=width+1 and box.y1<=height+1, (o.get_text(),box)
    for (o,a),(p,b) in combinations(texts, 2):
        wide,high = min(a.x1, b.x1)-max(a.x0, b.x0),min(a.y1, b.y1)-max(a.y0, b.y0)
        assert wide<=1.5 or high<=2.5, (o.get_text(),p.get_text(),wide,high)
    drawn = {o for o,_ in texts}
    for axis in [o for a in figure.axes for o in ((a.xaxis,a.yaxis) if names else ())]:
        shown = [o.get_text() for o in axis.get_ticklabels() if o in drawn]
        assert len({*shown})==len(shown), shown

def answers(k, seed=0):
    "Confusion matrices of two networks, tables of their classes, and the change"
    before,after = matrix(k, seed),matrix(k, seed)[::-1,::-1]
    after = np.stack([np.random.default_rng(i).multinomial(n, .4*np.eye(k)[i]+.6/k)
                      for i,n in enumerate(before.sum(1))])
    return before,after

def changes(before, after, names):
    diff = np.diag(after)/after.sum(1)-np.diag(before)/before.sum(1)
    return pd.DataFrame(dict(change=diff, low=diff-.1, high=diff+.1, support=before.sum(1)),
                        index=pd.Index(names, name='class'))

def curves_of(names):
    t = np.linspace(0, 1, 21)
    return {o:pd.DataFrame(dict(mcc=.6+.1*t-.02*i, balanced_acc=.8-.2*t**2-.01*i, across=.01), index=t)
            for i,o in enumerate(names)}

methods = ['instance','class','sqrt','balmix_0.2','class_balanced_loss','a method of my own with a long name']

def differences(methods):
    return pd.DataFrame([dict(method=m, point=o, metric='mcc', diff=.02*i-.05, low=.02*i-.09, high=.02*i-.01,
                              shown='better' if i>4 else '')
                         for i,m in enumerate(methods) for o in OperatingPoint])

def class_figures(names):
    "Each figure that names classes"
    k = len(names)
    before,after = answers(k)
    one,two = per_class(before, names),per_class(after, names)
    change = changes(before, after, names)
    n = before.sum(1)
    return dict(
        one=partial(plot_per_class, one), step=partial(plot_per_class, {'instance':one, 'class':two}, change=change),
        three=partial(plot_per_class, {'instance':one, 'class':two, 'sqrt':one.assign(images=1.*n)}),
        change=partial(plot_recall_change, change), errors=partial(plot_errors, before, names),
        confusion=partial(plot_confusion, before, names), counts=partial(plot_confusion, before, names, False),
        pair=partial(plot_confusion, {'instance':before, 'balmix_0.2':after}, names),
        shares=partial(plot_shares, {'in the data':n/n.sum(), 'class':np.full(k, 1/k)}, names),
        counted=partial(plot_shares, {o:n**q/(n**q).sum() for o,q in zip(methods, (1,0,.5,.7))}, names, n))

kinds = 'one','step','three','change','errors','confusion','counts','pair','shares','counted'

@pytest.mark.thinned
@pytest.mark.parametrize('which', names_of)
@pytest.mark.parametrize('kind', kinds)
@pytest.mark.filterwarnings('ignore:Glyph')
def test_texts_of_classes_are_apart(which, kind, monkeypatch):
    check_texts(class_figures(names_of[which])[kind](), monkeypatch)

@pytest.mark.thinned(1)
@pytest.mark.parametrize('n', [1,2,4,6])
def test_texts_of_methods_are_apart(n, monkeypatch):
    names = methods[:n]
    history = pd.DataFrame(dict(train_loss=np.geomspace(2, .1, 30), valid_loss=np.geomspace(2, .4, 30)))
    roc = pd.DataFrame(dict(fpr=[0,.1,1], tpr=[0,.9,1]))
    curves = curves_of(names)
    marks = {o:dict(mcc=.61, balanced_acc=.7) for o in names}
    bins = pd.DataFrame(dict(n=[30,0,50], confidence=[.5,np.nan,.99], accuracy=[.45,np.nan,.98]))
    for ax in (
            plot_history({o:history+.001*i for i,o in enumerate(names)}, 'train_loss', 'valid_loss'),
            plot_roc(dict.fromkeys(names, roc)), plot_operating_curve(curves, marks=marks),
            plot_operating_curve(next(iter(curves.values()))[['mcc','balanced_acc']]),
            plot_reliability(dict.fromkeys(names, bins)),
            plot_comparison(differences(names), 'mcc', baseline='a baseline of my own')):
        check_texts(ax, monkeypatch, names=False)

def test_methods_have_their_titles(monkeypatch):
    ax = plot_comparison(differences(['class','balmix_0.2']), 'mcc', baseline='instance')
    texts = ' '.join(o.get_text().replace('\n', ' ') for o,_ in drawn_texts(ax.figure, monkeypatch))
    assert 'Class-balanced sampling' in texts and 'Balanced-MixUp 0.2' in texts and 'beyond plain sampling' in texts

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

def test_a_half_is_no_empty_cell():
    "Python rounds 0.5 to 0"
    def texts(cm, *args): return [t.get_text() for t in plot_confusion(cm, [*'ab'], *args).texts]
    assert texts([[199,1],[1,200]])==['100','<1','1','100'] # 0.498 and 0.5 %, the largest class first
    assert texts([[8,.5],[.4,2]], False)==['8','1','<1','2']

def test_grades_stay_in_their_order():
    ax = plot_confusion(matrix(5), [*'edcba'], ordered=True)
    assert [t.get_text() for t in ax.get_xticklabels()]==[*'edcba']

@pytest.mark.parametrize('k', [2,23])
def test_recalls_are_those_of_the_table(k):
    t = per_class(matrix(k), [f'class {i}' for i in range(k)])
    order = np.argsort(-t.support.to_numpy(), kind='stable')
    ax = plot_per_class({'one':t, 'two':t.assign(recall=t.recall/2)})
    marks = [o for o in ax.lines if o.get_marker()=='o' and len(o.get_xdata())==k]
    for line,share in zip(marks, (1,.5)):
        close(line.get_xdata(), 100*share*t.recall.iloc[order])
        close(line.get_ydata(), np.arange(k))

def test_many_classes_are_those_that_changed_most_and_three_groups():
    before,after = answers(100)
    names = names_of['hundred']
    change = changes(before, after, names)
    change.iloc[[5,77],:3] = [[.9,.8,1],[-.9,-1,-.8]]
    for ax in (plot_recall_change(change),
               plot_per_class({'a':per_class(before, names), 'b':per_class(after, names)}, change=change)):
        shown = [o.get_text() for o in ax.get_yticklabels()]
        assert {'finding_5','finding_77'} <= {*shown} and len(shown)==15
        assert [o.split(':')[0] for o in shown[-3:]]==['many','medium','few']
        limits = [o.get_text() for o in ax.get_yticklabels(minor=True)][-3:]
        assert all(' images each' in o for o in limits)

def widths(ax): return [o.get_linewidth() for o in ax.lines if len(o.get_xdata())==2 and o.get_linewidth()>1.1]

def test_a_step_is_thick_only_where_the_change_is_shown():
    before,after = answers(4)
    tables = {'a':per_class(before, [*'abcd']), 'b':per_class(after, [*'abcd'])}
    change = changes(before, after, [*'abcd'])
    change[['low','high']] = [[.1,.2],[-.2,-.1],[-.1,.1],[np.nan,np.nan]]
    assert widths(plot_per_class(tables, change=change))==[4,4]
    assert not widths(plot_per_class(tables, change=change.assign(judged=False)))
    assert not widths(plot_per_class(tables))

def test_cells_are_linear_in_the_share():
    ax = plot_confusion([[50,50],[0,100]])
    strength = ax.images[0].get_array()[...,3]
    order = np.array([[100,0],[50,50]]) if strength[0,0]>.5 else np.array([[50,50],[0,100]])
    close(strength, .8*order/100, .01)

def test_no_line_joins_classes():
    k = 6
    t = per_class(matrix(k), [f'class {i}' for i in range(k)])
    for ax in (plot_per_class({'a':t, 'b':t, 'c':t}), plot_shares({'a':np.arange(1, 7)/21, 'b':np.full(k, 1/k)})):
        assert not [o for o in ax.lines if o.get_linestyle()!='None' and len(o.get_xdata())==k]

def test_shares_have_the_ticks_1_3_10_30():
    n = np.geomspace(5000, 20, 8)
    ax = plot_shares({'in the data':n/n.sum()}, sizes=n)
    assert [o.get_text() for o in ax.get_xticklabels()]==['0.3','1','3','10','30']

def test_smoothing_takes_steps_and_leaves_lines():
    t = np.linspace(0, 1, 21)
    close(smoothed(t, np.stack([t,3-t], 1)), np.stack([t,3-t], 1))
    stairs = np.floor(4*t)
    assert np.abs(np.diff(smoothed(t, stairs), n=2)).max() < np.abs(np.diff(stairs, n=2)).max()/3

def run_of(paths, seed, k=3):
    rng = np.random.default_rng(seed)
    y = np.arange(len(paths))%k
    z = np.exp(2*np.eye(k)[y]+rng.normal(size=(len(y),k)))
    p = z/z.sum(1, keepdims=True)
    return dict(targs=y, paths=np.array(paths), groups=None, shares=np.full(k, 1/k),
                probs={OperatingPoint.TRAINED:p, OperatingPoint.PREVALENCE:p})

def mean_curve_of(runs): return mean_curve([keep_answers(o, 3).curve for o in runs], [o['paths'] for o in runs])

def test_a_band_needs_three_folds():
    fold = [[f'{f}-{i}' for i in range(60)] for f in range(4)]
    for runs,folds in (([run_of(fold[0], 0)],1), ([run_of(fold[f], f) for f in (0,1)],2),
                       ([run_of(fold[f%2], f) for f in range(6)],2)): # seeds are no folds
        curve,_,n = mean_curve_of(runs)
        assert n==folds and np.isnan(curve['across']).all()
    curve,_,n = mean_curve_of([run_of(fold[f], f) for f in range(4)])
    assert n==4 and np.isfinite(curve['across']).all()
    drawn = plot_operating_curve({'a':pd.DataFrame(curve).set_index('t')})
    bare = plot_operating_curve({'a':pd.DataFrame(curve).set_index('t').drop(columns='across')})
    assert len(drawn.patches)==1 and not bare.patches

def test_bins_hold_as_many_answers_each():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([.3]*4, 1000)
    y = rng.integers(4, size=1000)
    bins = reliability_bins(p, y)
    assert len(bins)==10 and bins.n.between(95, 105).all() and bins.index.is_monotonic_increasing
    close((bins.n*bins.accuracy).sum()/1000, (p.argmax(1)==y).mean())
    assert ((bins.low<=bins.accuracy) & (bins.accuracy<=bins.high)).all()
    assert len(reliability_bins(p[:50], y[:50]))==2
    assert len(reliability_bins(p[:5], y[:5]))==1
    ax = plot_reliability(calibration_bins(p, y)) # bins of equal width have intervals too
    assert len(ax.collections[0].get_segments())==(calibration_bins(p, y).n>0).sum()

def test_an_arrow_has_the_direction_of_its_curve():
    "The last step of a smoothed curve may be tiny, and point elsewhere"
    t = np.linspace(0, 1, 21)
    steps = .05*t
    steps[1] = steps[0]+1e-6
    curve = pd.DataFrame(dict(mcc=.9-steps, balanced_acc=.92-.05*t), index=t)
    ax = plot_operating_curve({'instance':curve})
    arrow, = (o for o in ax.texts if getattr(o, 'arrow_patch', None))
    (x,y),(from_x,from_y) = arrow.xy,arrow.xyann
    assert .5<(y-from_y)/(x-from_x)<2

def test_the_first_figure_of_a_notebook_leaves_figures_shown(tmp_path, monkeypatch):
    "Jupyter's backend is loaded with the first figure, and then makes pyplot interactive"
    (tmp_path/'shows_figures.py').write_text('import matplotlib\nfrom matplotlib.backends.backend_agg import *\n'
                                             'matplotlib.interactive(True)\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plt, '_backend_mod', None)
    before = matplotlib.rcParams._get('backend')
    matplotlib.rcParams['backend'] = 'module://shows_figures'
    try:
        svg('x', plot_confusion, matrix(3), [*'abc'])
        assert plt.isinteractive()
    finally:
        plt.switch_backend(before)
        plt.ioff()

def test_figures_take_the_page_s_colours():
    marks = str(svg('x', plot_confusion, {'instance':matrix(4), 'class':matrix(4, 1)}, [*'abcd'])['marks'])
    assert not re.findall(r'#[0-9a-f]{6}\b', re.sub(r'base64,[^"]*', '', marks))

def test_mistakes_are_shown_with_what_was_said_of_them():
    p = np.array([[.9,.1],[.2,.8],[.6,.4],[.3,.7]])
    m = worst_mistakes(p, [1,1,1,0], ['w.jpg','x.jpg','y.jpg','$z$.jpg'], ['no','yes'])
    assert m.path.tolist()==['w.jpg','$z$.jpg','y.jpg']
    close(m.of_true, [.1,.3,.4])
    axs = top_mistakes(m, [np.zeros((4,4)),None,np.zeros((4,4,3))], cols=2)
    assert axs.shape==(2,2) and axs[0,0].get_title()=='no (90 %)\nis yes\nw.jpg'
    assert [len(a.images) for a in axs.flat]==[1,0,1,0]
    axs[0,0].figure.canvas.draw()

class Plain:
    "A data set of tensors without names or transforms"
    def __init__(self, x, y): self.x,self.y = x,y
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i],self.y[i]

def saved_images(folder):
    rng = np.random.default_rng(0)
    for part in ('train','valid'):
        for name in ('no','yes'):
            (folder/part/name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(256, size=(20,20,3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder/part/name/f'patient_{i}_left-eye.png')

def loaders_of(kind, folder):
    "Loaders of each kind"
    if kind=='folder':
        saved_images(folder)
        return ImageDataLoaders.from_folder(folder, item_tfms=Resize(16), bs=8, num_workers=0)
    if kind=='table': return digits(n_folds=2).dataloaders(fold=1, size=16, bs=32, num_workers=0)
    x,y = torch.randn(40, 3, 16, 16),torch.arange(40)%2
    dls = DataLoaders(DataLoader(Plain(x[:20], y[:20]), bs=8), DataLoader(Plain(x[20:], y[20:]), bs=8))
    dls.c = 2
    return dls

@pytest.mark.parametrize('kind', ['folder','table','plain'])
def test_mistakes_of_a_learner(kind, tmp_path):
    dls = loaders_of(kind, tmp_path)
    torch.manual_seed(0)
    learn = Learner(dls, small_net(dls.c), loss_func=CrossEntropyLossFlat())
    axs = top_mistakes(learn, n=3, cols=3)
    axs[0,0].figure.canvas.draw()
    drawn = [ax for ax in axs.flat if ax.get_title()]
    assert drawn and all(len(ax.images)==1 for ax in drawn)
    assert all(re.fullmatch(r'(?s).+ \(\d+ %\)\nis .+\n.+', ax.get_title()) for ax in drawn)
    if kind=='folder': assert 'patient_' in drawn[0].get_title()

def test_file_names_break_at_separators():
    assert broken_path('a.png')=='a.png'
    assert broken_path('patient_0017/left_eye/visit_2_macula.png')=='patient_0017/left_eye/visit_2_\nmacula.png'
    for path in ('x'*300, '/'.join('y'*i for i in range(40)), '病'*90):
        lines = broken_path(path, 30).split('\n')
        assert len(lines)<=2 and max(map(len, lines))<=30, path

def test_names():
    assert figure_names(['a\n\t b$'])==[r'a b\$'] and figure_names(['x'*50, 'x'*49+'y'])[0]!='x'*50
    assert len({*figure_names(long_names(100))})==100
    assert series_names(['instance','mine'])==['Plain sampling','mine']

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
