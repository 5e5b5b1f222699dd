"""The notebooks show one report of small digits. Here every number of its dictionary is counted again by scikit-learn
and plain loops, the page is read by a parser as a browser reads it, and names try to break it."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from made import POINTS, write_results
from PIL import Image, ImageOps
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torch.utils.data import DataLoader, SubsetRandomSampler
from toys import Counting, Points, close, make_net, quiet_fit, tail_targets

import fastai_balmix
from fastai_balmix.all import BalancedMixUp
from fastai_balmix.compare.answer import headline
from fastai_balmix.compare.results import Results
from fastai_balmix.compare.suggest import advice
from fastai_balmix.compare.summary import summarise
from fastai_balmix.datasets.longtail import digits_lt, small_net
from fastai_balmix.datasets.prepared import prepare
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.datasets.trees import from_folder_table
from fastai_balmix.metrics.differences import recall_differences
from fastai_balmix.report import comparison
from fastai_balmix.report.card import thumbnail
from fastai_balmix.report.cli import balmix_report
from fastai_balmix.report.comparison import results_card
from fastai_balmix.report.network import learner_card
from fastai_balmix.report.page import Report, report

HOSTILE = ['<script>alert(1)</script>', '$x_1$ & "q"', '</svg></table>', '{{ 7*7 }}\n$', "a'b=<b>&amp;"]

def near(got, want, tol=1e-9):
    "`close`, with lists in float64 too"
    close(np.asarray(got, dtype=float), np.asarray(want, dtype=float), tol, tol)

@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp('made')/'r', ['ada','bo','cy','di'], seeds=(0,1), groups=True)

@pytest.fixture(scope='module')
def card(folder): return results_card(folder, positive=['cy','di'], prevalence=.04)

def answers(folder, method, point='as trained'):
    "Truth, probabilities, paths and seed of all answers of a method"
    res,got = Results(folder),[]
    for run in dict.fromkeys(o for o in res.df.run if o.startswith(f'{method}-')):
        d = res.predictions(run)
        got.append((d['targs'],d['probs'][point],d['paths'],np.full(len(d['targs']), int(run[-1]))))
    return [np.concatenate(o) for o in zip(*got)]

def by_run(paths, seed):
    "Which answers are of which run of `folder`"
    fold = np.array([o.split('/')[0] for o in paths])
    return [(fold==f)&(seed==s) for f in ('1','2') for s in (0,1)]

def written(folder, **kwargs):
    "Text of the report of a folder"
    return Page(report(folder, None, **kwargs).html()).text

# ------------------------------------------------------------------ the dictionary

def test_the_dictionary_is_plain(card): assert json.loads(json.dumps(card, allow_nan=False))==card

def test_confusion_and_recalls_are_scikit_learn_s_and_every_image_counts_once(folder, card):
    for net in card['networks']:
        y,p,_,_ = answers(folder, net['name'])
        per_class = pd.DataFrame(net['per_class'])
        near(net['confusion'], sk.confusion_matrix(y, p.argmax(1))/2) # two seeds answered for each image
        near(per_class.recall, sk.recall_score(y, p.argmax(1), average=None))
        near(per_class.precision, sk.precision_score(y, p.argmax(1), average=None))
        near(net['accuracy'], sk.accuracy_score(y, p.argmax(1)))
        for o in net['per_class']:
            if (o['recall']*o['support'])%1: continue # Wilson's interval is of whole numbers in SciPy
            ci = stats.binomtest(round(o['recall']*o['support']), int(o['support'])).proportion_ci(method='wilson')
            # patients are counted, which takes a little more room
            assert ci.low-.1<o['recall_low']<=ci.low+1e-9 and ci.high-1e-9<=o['recall_high']<ci.high+.1

def test_classes_are_counted(folder, card):
    y,_,paths,_ = answers(folder, 'instance')
    once = dict(zip(paths, y))
    assert [o['reported'] for o in card['classes']]==np.bincount([*once.values()]).tolist()
    groups = {(p.split('/')[0],int(re.search(r'/(\d+)', p)[1])//3,t) for p,t in once.items()}
    assert [o['groups'] for o in card['classes']]==np.bincount([t for *_,t in groups]).tolist()

def test_operating_curve_is_the_mean_of_the_runs(folder, card):
    for net in card['networks']:
        want = {}
        for point in POINTS:
            y,p,paths,seed = answers(folder, net['name'], point)
            want[point] = [np.mean([f(y[m], p[m].argmax(1)) for m in by_run(paths, seed)])
                           for f in (sk.balanced_accuracy_score,sk.matthews_corrcoef)]
        c = net['curve']
        assert c['t'][0]==0 and c['t'][-1]==1
        near([c['balanced_acc'][-1],c['mcc'][-1]], want['train prevalence'])
        near([net['mark']['balanced_acc'],net['mark']['mcc']], want['as trained'])
        # the class shares in training are rounded, those the made-up network answers for are not
        near([c['balanced_acc'][0],c['mcc'][0]], want['balanced prior'], .03)

def test_reliability_is_scikit_learn_s(folder, card):
    for net in card['networks']:
        y,p,_,_ = answers(folder, net['name'])
        true,pred = calibration_curve(p.argmax(1)==y, p.max(1), n_bins=15)
        b = pd.DataFrame([o for o in net['bins']['as trained'] if o['n']])
        near(b.accuracy, true, 1e-6)
        near(b.confidence, pred, 1e-6)
        errors = net['errors']['as trained']
        near(errors['calibration_error'], (b.n*np.abs(true-pred)).sum()/b.n.sum(), 1e-6)
        near(errors['brier'], ((p-np.eye(4)[y])**2).sum(1).mean(), 1e-6)

def test_calibrated_at_the_shares_of_the_images(folder, card):
    shares = np.array(Results(folder).record('instance-small-1-0')['train_shares'])
    for net in card['networks']:
        parts = []
        y,p,paths,seed = answers(folder, net['name'], 'train prevalence')
        for m in by_run(paths, seed):
            q = p[m].astype(float)/shares*(np.bincount(y[m], minlength=4)/m.sum())
            parts.append(((q/q.sum(1, keepdims=True)-np.eye(4)[y[m]])**2).sum(1))
        near(net['errors']['calibrated']['brier'], np.concatenate(parts).mean(), 1e-5)

def test_roc_is_scikit_learn_s(folder, card):
    for net in card['networks']:
        y,p,_,_ = answers(folder, net['name'])
        value,low,high = net['detection']['auroc']
        near(value, sk.roc_auc_score(np.isin(y, [2,3]), p[:,2:].sum(1)), 1e-6)
        assert low<value<high
        near(sk.auc(net['detection']['roc']['fpr'], net['detection']['roc']['tpr']), value, 1e-6)

def test_what_is_compared_is_the_summary(folder, card):
    s = summarise(Results(folder), 'instance')
    assert card['sentences']==s.sentences and card['notes']==s.notes and card['caveats']==s.caveats
    near([o['diff'] for o in card['differences']], s.differences['diff'].to_numpy())
    assert card['verdicts']==s.verdicts.verdict.value_counts().to_dict()
    for key,column in ('median','median'),('value','mean'),('low','low'),('high','high'):
        for m in card['metrics']:
            got = np.array([o['scores'][m][key] for o in card['scores']], dtype=float) # no interval of two folds
            np.testing.assert_allclose(got, s.table[f'{m}_{column}'].to_numpy(), rtol=1e-9)
    keys = [(o['arch'],o['method'],o['point']) for o in card['scores']]
    assert keys==[*zip(s.table.arch, s.table.method, s.table.point)]

def test_a_summary_that_is_there_is_not_made_again(folder, card, monkeypatch):
    s = summarise(Results(folder), 'class')
    monkeypatch.setattr(comparison, 'summarise', lambda *args, **kwargs: pytest.fail('it was made again'))
    got = report(folder, None, summary=s).card
    assert got['baseline']=='class' and got['sentences']==s.sentences and 'change' in got['networks'][1]
    for bad,there in (dict(baseline='instance'),'class'),(dict(part='select'),'report'):
        with pytest.raises(ValueError, match=f"'{there}', as in the summary"): results_card(folder, s, **bad)
    s.meta = dict(s.meta, fingerprint='another')
    with pytest.raises(ValueError, match='a summary of these results'): results_card(folder, s)
    with pytest.raises(ValueError, match='what `summarise` gives. Got DataFrame'): results_card(folder, s.table)

def test_one_run_each_says_so_first(tmp_path):
    r = report(write_results(tmp_path/'r', ['a','b','c'], folds=(0,), n_folds=0), None)
    assert r.headline()=='One run of each method: which of them is better cannot be concluded.'
    text = Page(r.html()).text.replace('These runs cannot show which classes gained or paid.', '')
    assert not any(o['judged'] for o in r.card['networks'][1]['change'])
    claims = 'gained','shows a difference','better by','worse by','A difference in what was learned'
    assert not any(words in text for words in claims)

def answers_by_path(folder, run):
    "Class and answer of each image of a run as trained, by path"
    d = Results(folder).predictions(run)
    table = dict(targ=d['targs'], pred=d['probs']['as trained'].argmax(1), group=d['groups'])
    df = pd.DataFrame(table, index=d['paths']).sort_index()
    return df.assign(fold=df.index.str.split('/').str[0])

def test_change_of_recall_is_of_the_same_images(folder, card):
    right = {}
    for m in 'instance','class':
        y,p,paths,_ = answers(folder, m)
        df = pd.DataFrame(dict(path=paths, y=y, ok=p.argmax(1)==y))
        right[m] = df.groupby('path').agg(y=('y','first'), ok=('ok','mean'))
    want = (right['class'].ok-right['instance'].ok).groupby(right['class'].y).mean()
    base,net = card['networks']
    near([o['change'] for o in net['change']], want.to_numpy())
    def of_folds(m, s): return [answers_by_path(folder, f'{m}-small-{f}-{s}') for f in (1,2)]
    runs = [[of_folds(m, s) for s in (0,1)] for m in ('instance','class')]
    pred = np.array([[[np.concatenate([o.pred for o in seed])] for seed in method] for method in runs])
    first = pd.concat(runs[0][0])
    simultaneous = recall_differences(pred, *(first[o].to_numpy() for o in ('targ','fold','group')))
    for end in 'low','high': near([o[end] for o in net['change']], simultaneous[end].to_numpy())
    assert all(o['judged'] for o in net['change'])
    assert all(o['low']<=o['change']<=o['high'] for o in net['change']) and 'change' not in base

def test_worst_mistakes_come_first_and_once(folder, card):
    for net in card['networks']:
        y,p,paths,_ = answers(folder, net['name'])
        of_true = p[np.arange(len(y)),y]
        wrong = sorted((of_true[i],paths[i]) for i in range(len(y)) if p[i].argmax()!=y[i])
        got = [o['path'] for o in net['mistakes']]
        assert got==[*dict.fromkeys(o for _,o in wrong)][:12] and len({*got})==12
        assert all(o['true']!=o['predicted'] and o['probability']>o['of_true'] for o in net['mistakes'])

def test_by_default_the_rarest_class_at_its_share_in_training(folder):
    detection = results_card(folder)['detection']
    assert detection['classes']==['di'] and not detection['stated']
    near(detection['prevalence'], Results(folder).record('class-small-1-0')['train_shares'][3])
    named = results_card(folder, positive={'late':['di',2]})['detection']
    assert named['name']=='late' and named['classes']==['cy','di']

@pytest.mark.parametrize('kwargs,words', [
    (dict(positive='no one'), "'positive' parameter of report must be a class"),
    (dict(positive=['ada','bo','cy','di']), 'some of the classes, not all'),
    (dict(prevalence=2), "'prevalence' parameter of report"),
    (dict(prevalence=0.), 'above 0'),
    (dict(baseline='nobody'), "'baseline' parameter of summarise"),
    (dict(part='nowhere'), "'part' parameter"),
    (dict(n_mistakes=-1), "'n_mistakes' parameter of report"),
    (dict(data=3), '`ImageData`')])
def test_bad_arguments(folder, kwargs, words):
    with pytest.raises(ValueError, match=re.escape(words)): results_card(folder, **kwargs)

def test_scores_of_a_test_set_that_was_balanced_are_read_at_the_training_shares(tmp_path):
    prior = [.6,.3,.1]
    res = write_results(tmp_path/'r', ['a','b','c'], folds=(0,), prevalence=prior, n_folds=0)
    net = results_card(res)['networks'][0]
    y,p,_,_ = answers(res, 'instance')
    w = (np.array(prior)/np.bincount(y))[y]
    near(net['mark']['mcc'], sk.matthews_corrcoef(y, p.argmax(1), sample_weight=w))
    near(net['mark']['balanced_acc'], sk.balanced_accuracy_score(y, p.argmax(1)))

def test_each_architecture_has_its_own_baseline(tmp_path):
    res = write_results(tmp_path/'r', ['a','b','c'], archs=('small','wide'))
    c = results_card(res)
    assert [o['name'] for o in c['networks']]==['small, instance','small, class','wide, instance','wide, class']
    assert ['change' in o for o in c['networks']]==[False,True,False,True]

# ------------------------------------------------------------------ the page

VOID = {'meta','img','br','link','input','hr','wbr'}

class Page(HTMLParser):
    "What a browser makes of a page: elements with their attributes, and all text; nesting is checked"
    def __init__(self, text):
        super().__init__()
        self.open,self.elements,self.texts,self.heads = [],[],[],[]
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag,dict(attrs)))
        if re.fullmatch('h[1-6]', tag): self.heads.append(int(tag[1]))
        if tag not in VOID: self.open.append(tag)

    def handle_startendtag(self, tag, attrs): self.elements.append((tag,dict(attrs)))
    def handle_endtag(self, tag): assert self.open.pop()==tag, f'</{tag}> at {self.getpos()}'
    def handle_data(self, data):
        if not self.open or self.open[-1] not in ('script','style'): self.texts.append(data)

    def all(self, tag): return [a for t,a in self.elements if t==tag]

    @property
    def text(self): return ' '.join(''.join(self.texts).split())

@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    names = '{f}/<img src=x onerror=alert(1)> $ {i}.jpg'
    return write_results(tmp_path_factory.mktemp('hostile')/'r', HOSTILE, names=names, data=HOSTILE[0],
                         notes=['a note with <i>tags</i>'])

@pytest.fixture(scope='module')
def pages(folder, hostile, tmp_path_factory):
    files = dict(plain=folder, hostile=hostile)
    return {k:report(o, tmp_path_factory.mktemp(k)/'report.html') for k,o in files.items()}

@pytest.fixture(params=['plain','hostile'])
def page(request, pages): return Page(pages[request.param].path.read_text(encoding='utf-8'))

def test_page_fetches_nothing(page):
    for tag,attrs in page.elements:
        for k,v in attrs.items():
            if k.endswith(('src','href','action','srcset','data')): assert v.startswith(('data:image/','#')), (tag,k,v)
            if k=='style': assert 'url(' not in v.replace('url(#', '')
    assert not {'link','iframe','object','embed','base','form'} & {t for t,_ in page.elements}
    css = (Path(fastai_balmix.__file__).parent/'report'/'report.css').read_text()
    assert 'url(' not in css and '@import' not in css
    policy = next(a['content'] for a in page.all('meta') if a.get('http-equiv')=='Content-Security-Policy')
    assert policy.startswith("default-src 'none'")

def test_page_can_be_read_by_a_screen_reader(page):
    assert page.all('html')[0]['lang']=='en' and len(page.all('main'))==1 and len(page.all('title'))==1
    assert page.heads[0]==1 and page.heads.count(1)==1 and all(b<=a+1 for a,b in zip(page.heads, page.heads[1:]))
    ids = [a['id'] for _,a in page.elements if 'id' in a]
    assert len(ids)==len({*ids})
    for a in page.all('a'): assert a['href'][1:] in ids
    for a in page.all('img'): assert a.get('alt')
    for a in page.all('svg'): assert a['role']=='img' and len(a['aria-label'])>20
    for tag,a in page.elements:
        if 'aria-labelledby' in a: assert a['aria-labelledby'] in ids
        if tag=='div' and a.get('class')=='wide': assert a['tabindex']=='0' and a['aria-label']

def test_every_figure_says_its_main_number_and_has_a_table(pages):
    html = pages['plain'].path.read_text(encoding='utf-8')
    for alt in re.findall(r'<svg[^>]* aria-label="([^"]*)"', html): assert re.search(r'\d', alt), alt
    sections = dict(o.split('"', 1) for o in html.split('<section id="')[1:])
    drawn = dict(gains='classes', threshold='comparison', curve='operating', taken='confusion')
    for k in sections:
        if '<svg' in sections[k]: assert '<details><summary>' in sections[drawn.get(k, k)], k
    for k in drawn: assert '<p class="say">' in sections[k] and sections[k].count('<svg')==1

def test_tables_can_be_sorted(page):
    tables = [a for a in page.all('table') if a.get('class')=='sortable']
    assert len(tables)==len(page.all('table'))>5
    heads = [a for a in page.all('th') if a.get('scope')=='col']
    assert len(heads)==len(page.all('button')) and all(a['aria-sort']=='none' for a in heads)
    for a in page.all('td'): assert 'data-n' not in a or isinstance(float(a['data-n']), float)

def test_sections_are_there(page):
    shown = ['summary','gains','curve','threshold','taken','scores']
    folded = ['limits','data','comparison','classes','operating','confusion','reliability','detection','mistakes',
              'training','made']
    assert [a['id'] for a in page.all('section')]==shown+folded
    assert [a.get('class') for a in page.all('details')].count('part')==len(folded)
    linked = [a['href'][1:] for a in page.all('a')][1:]
    assert {*linked} <= {*shown,*folded} and {'summary','gains','curve','scores','limits','data','made'} <= {*linked}
    # in the order of the page
    assert linked==[o for o in shown+folded if o in linked]

def test_hostile_names_are_text(pages):
    page = Page(pages['hostile'].path.read_text(encoding='utf-8'))
    assert len(page.all('script'))==1 and not page.all('i') and 'onerror' not in {k for _,a in page.elements for k in a}
    for o in HOSTILE: assert ' '.join(o.split()) in page.text, o
    assert '<img src=x onerror=alert(1)> $ ' in page.text and 'a note with <i>tags</i>' in page.text
    brief = pages['hostile']._repr_html_()
    assert '<script' not in brief and '&lt;script&gt;' in brief

def test_text_is_not_escaped(pages):
    r = pages['hostile']
    assert repr(r).startswith(f'{HOSTILE[0]}: 2 methods compared\n{r.headline()}\n- ')
    assert repr(Report(dict(r.card, sentences=[HOSTILE[4]]))).endswith(f'\n- {HOSTILE[4]}')

def test_names_in_figures_are_no_formulas(pages):
    html = pages['hostile'].path.read_text(encoding='utf-8')
    drawn = [' '.join(o.split()) for o in re.findall(r'<text[^>]*>([^<]*)</text>', html)]
    assert any(o.startswith('$x_1$ &amp; "q"') for o in drawn) and not re.search(r'<tspan', html)

def test_numbers_are_printed_last(card):
    "A number of the card that is changed is another in the page, in its cell and in what the cell is sorted by"
    changed = json.loads(json.dumps(card))
    changed['scores'][0]['scores']['mcc'] = dict(median=.12345, value=.5, low=None, high=None)
    changed['differences'][0] |= dict(diff=-.4321, low=-.5, high=.25, q=.0004, shown='worse')
    html = Report(changed).html()
    for o in ('<td class="n" data-n="12.345">12.35</td><td class="n" data-n="50.0">50.00</td>',
              '<td class="n" data-n="-43.21">-43.21 (-50.00 to +25.00), q &lt; 0.001, worse</td>',
              '<td class="n" data-n="-43.21">-43.2 (-50.0 to +25.0)</td><td class="n" data-n="0.0004">0.000</td>'):
        assert o in html, o

def test_page_and_notebook_show_the_one_dictionary(card, tmp_path):
    changed = json.loads(json.dumps(card))
    changed |= dict(name='Another name', sentences=['A sentence that nobody computed.'],
                    caveats=['A limit of its own.'])
    changed['networks'][0]['confusion'][0][1] = 4711.
    changed['networks'][0]['mistakes'][0]['path'] = 'caf\udce9.jpg' # a file's name need not be text in any encoding
    r = Report(changed).save(tmp_path/'r.html')
    page = r.path.read_text(encoding='utf-8')
    for text in page,r._repr_html_():
        for o in ('Another name','A sentence that nobody computed.','A limit of its own.'): assert o in text
    assert '4711' in page and 'caf?.jpg' in page and 'Another name' in repr(r)
    assert len(Page(r._repr_html_()).all('svg'))==2

def test_same_dictionary_same_page_whatever_the_style_of_a_user(card):
    want = Report(card).html()
    with plt.style.context('dark_background'), plt.rc_context({'svg.fonttype':'path', 'font.size':30}):
        assert Report(json.loads(json.dumps(card))).html()==want

# ------------------------------------------------------------------ what is not there

def test_without_images_epochs_and_a_second_method(tmp_path):
    text = written(write_results(tmp_path/'r', ['a','b','c'], methods=[('solo',1.5)], history=False))
    for o in 'these runs kept no epochs','hand them over as the argument data','no second method','no image':
        assert o in text, o

def test_runs_that_did_not_keep_their_counts(tmp_path):
    res = write_results(tmp_path/'r', ['a','b','c'])
    for f in res.glob('runs/*/run.json'):
        f.write_text(json.dumps({k: v for k,v in json.loads(f.read_text()).items() if k!='train_counts'}))
    c = results_card(res)
    text = Page(Report(c).html()).text
    assert c['sampling'] is None and 'did not keep the number of their training images' in text
    assert 'training images images reported' not in text
    assert [o['name'] for o in c['classes']]==['a','b','c']
    assert all('images' not in o for o in c['networks'][0]['per_class'])

def test_a_run_without_its_record(tmp_path):
    res = write_results(tmp_path/'r', ['a','b','c'])
    (res/'runs'/'class-small-2-0'/'run.json').unlink()
    with pytest.raises(ValueError, match='class-small-2-0 has no run.json'): results_card(res)

def test_images_come_from_data_that_are_named(tmp_path):
    "What settings name is not opened: who sends a folder could name any place in them"
    root = tmp_path/'images'
    for c in 'abc': (root/c).mkdir(parents=True)
    res = write_results(tmp_path/'r', ['a','b','c'], names='a/{f}-{i}.png',
                        settings='data:\n  reader: from_folder_table\n  verify: true\n  group: (a+)+$\n'
                                 f'  folder: {root}\n  then: [{{step: without_broken}}]\n')
    rng = np.random.default_rng(0)
    for f in 1,2:
        for i in range(120):
            noise = rng.integers(255, size=(9,12,3), dtype=np.uint8)
            Image.fromarray(noise).save(root/'a'/f'{f}-{i}.png')
    for c in 'bc': Image.new('L', (8,8)).save(root/c/'x.png')
    c = results_card(res)
    assert c['networks'][0]['mistakes'][0]['image'] is None
    assert 'name them with --data, or hand them over as the argument data' in Page(Report(c).html()).text
    moved = root.rename(tmp_path/'elsewhere')
    c = results_card(res, data=moved)
    worst = c['networks'][0]['mistakes'][0]
    assert 'images' not in c['missing'] and worst['image']==thumbnail(Image.open(moved/worst['path']))
    (moved/worst['path']).write_bytes(b'no image')
    c = results_card(res, data=str(moved))
    assert c['networks'][0]['mistakes'][0]['image'] is None and 'they cannot be opened.' in Page(Report(c).html()).text
    assert not [*moved.rglob('.*')] # nothing was written there
    with pytest.raises(ValueError, match="'folder' parameter of from_folder_table"): results_card(res, data=root)

@pytest.fixture
def photographs(tmp_path):
    "Photographs in all orientations and some other files, and what a comparison notes of their pictures"
    root = tmp_path/'photographs'
    root.mkdir()
    rng,exif = np.random.default_rng(0),Image.Exif()
    for k in range(1, 9):
        smooth = Image.fromarray(rng.integers(0, 256, (5,7,3), dtype=np.uint8)).resize((300,200))
        exif[0x112] = k
        smooth.save(root/f'{k}.jpg', exif=exif.tobytes(), quality=95)
    smooth.resize((90,40)).save(root/'small.png')
    smooth.save(root/'turned.tif')
    names = sorted(o.name for o in root.iterdir())
    data = ImageData(pd.DataFrame(dict(path=names, label=['a','b']*5)), ['a','b'], root=root)
    def noted(cache, size, **kwargs):
        return dict(dict(data='', size=size, decode='full', store='raw', cache=cache, said=''), **kwargs)
    return data,noted

def thumbnails(data, noted, mine=True):
    "Thumbnails of all images by name, and which files were opened for them"
    files,open_image = [],comparison.open_image
    def watched(source, *args):
        files.append(source.name)
        return open_image(source, *args)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(comparison, 'open_image', watched)
        picture = comparison._picture_from(SimpleNamespace(meta=dict(opened=noted), data=data if mine else None), data)
        return {o: picture(dict(path=o)) for o in data.df.path},files

def decoded(uri): return np.asarray(Image.open(BytesIO(base64.b64decode(uri.partition(',')[2])))).astype(float)

def test_thumbnails_are_upright(photographs):
    data,_ = photographs
    for name,uri in thumbnails(data, [])[0].items():
        with Image.open(data.root/name) as im: true = ImageOps.exif_transpose(im).convert('RGB')
        true.thumbnail((128,128))
        assert decoded(uri).shape==np.asarray(true).shape and abs(decoded(uri)-np.asarray(true)).mean()<4

def test_thumbnails_come_from_prepared_images(photographs, tmp_path):
    data,noted = photographs
    plain = thumbnails(data, [])[0]
    for cache,folder in ('beside',None),(str(tmp_path/'stores'),tmp_path/'stores'):
        prepare(data, 130, folder=folder, progress=False, num_workers=0)
        small,files = thumbnails(data, [noted(cache, 130)])
        assert files==['turned.tif']
        for name,uri in small.items():
            one,other = decoded(uri),decoded(plain[name])
            assert one.shape==other.shape and abs(one-other).mean()<4
    # those of another kind, or that a foreign folder of results names, are not opened
    for one in noted('beside', 131),noted('beside', 130, decode='fast'),noted('beside', 130, data='other'), \
            noted('memory', 130),noted('', 130),noted('beside', -3),noted('beside', None):
        assert thumbnails(data, [one])==(plain,[*data.df.path])
    assert thumbnails(data, [noted(str(tmp_path/'stores'), 130)], mine=False)==(plain,[*data.df.path])
    assert thumbnails(data, [noted('beside', 130)], mine=False)[1]==['turned.tif']

def test_a_thumbnail_is_no_larger_than_what_was_prepared(photographs):
    data,noted = photographs
    for size in 64,100: prepare(data, size, progress=False, num_workers=0)
    plain = thumbnails(data, [])[0]
    small,files = thumbnails(data, [noted('beside', 64),noted('beside', 100)])
    assert {*files}=={*data.df.path}-{'small.png'}
    assert {k: v for k,v in small.items() if k!='small.png'}=={k: v for k,v in plain.items() if k!='small.png'}

def test_a_changed_file_has_its_new_thumbnail(photographs):
    data,noted = photographs
    held = prepare(data, 130, progress=False, num_workers=0)
    Image.new('RGB', (300,200), 'red').save(data.root/'1.jpg')
    (data.root/'2.jpg').unlink()
    small,files = thumbnails(data, [noted('beside', 130)])
    assert files==['1.jpg','2.jpg','turned.tif'] and small['2.jpg'] is None
    assert abs(decoded(small['1.jpg'])-[254,0,0]).max()<3 and len(held)==10

@pytest.mark.parametrize('damage', [dict(size='130'), dict(cache=None), dict(data=3), dict(decode=[])])
def test_notes_of_another_kind_are_refused(tmp_path, photographs, damage):
    res = write_results(tmp_path/'r', ['a','b','c'])
    path = res/'meta.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(opened=[photographs[1]('beside', 130) | damage])))
    with pytest.raises(ValueError, match="meta.json' cannot be read"): results_card(res)

def test_who_answered_one_class_to_every_image_is_named(tmp_path):
    res = write_results(tmp_path/'r', ['a','b','c'], methods=[('instance',1.5),('class',1.6),('sqrt',1.5)])
    for run in 'instance-small-1-0','instance-small-2-0','sqrt-small-1-0','sqrt-small-2-0','class-small-2-0':
        f = res/'runs'/run/'predictions.npz'
        d = dict(np.load(f))
        one = np.array([.1,.3,.6] if run[0]=='s' else [.6,.3,.1], np.float32)
        d['report/probs/as trained'] = one[None].repeat(120, 0)
        np.savez(f, **d)
        r = json.loads((f.parent/'run.json').read_text())
        (f.parent/'run.json').write_text(json.dumps(r|dict(n_bytes=f.stat().st_size)))
    text = written(res)
    plain = 'Plain sampling and Class-balanced sampling in 1 of 2 runs'
    for who,answer in (plain,'a'),('√-sampling','c'):
        assert f"{who} answered '{answer}' to every image: too little was learned to compare; train longer." in text
    assert text.count('to every image')==4 # at the head, and among the limits

@pytest.mark.slow
def test_what_the_page_says_of_folds(pages, tmp_path):
    plain = Page(pages['plain'].path.read_text(encoding='utf-8')).text
    pooled = ('training images are those of one run, reported images those of all folds together',
              'ROC as trained, folds pooled')
    for o in *pooled,'Who gained, who paid': assert o in plain
    assert '`' not in plain
    settings = 'data: x\nfolds: null\nn_folds: 5\n'
    for kwargs,repeated,folds,of in (
        (dict(folds=(0,), n_folds=0),'one run',None,None),
        (dict(folds=(0,), n_folds=0, seeds=(0,1)),'2 seeds',None,None),
        (dict(folds=(1,2)),'2 folds',[1,2],2),
        (dict(folds=(2,3), n_folds=10, seeds=(0,1,2)),'2 of 10 folds × 3 seeds',[2,3],10)):
        r = report(write_results(tmp_path/repeated, ['a','b','c'], settings=settings, **kwargs), None)
        text = Page(r.html()).text
        assert f'Repeated{repeated} Compared with' in text
        assert r.card['settings']==dict(data='x', folds=folds, n_folds=of)
        assert all((o in text)==(folds is not None) for o in pooled)

# ------------------------------------------------------------------ a learner

class Watched(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net,self.seen = net,0

    def forward(self, x):
        self.seen += len(x)
        return self.net(x)

def points_learner(n=(60,30,20,10)):
    train,valid = Points(n, seed=0),Points(n, seed=1)
    dls = DataLoaders(DataLoader(train, 8), DataLoader(valid, 16))
    return Learner(dls, Watched(make_net()), loss_func=CrossEntropyLossFlat()),valid

def test_one_forward_pass_serves_all():
    learn,valid = points_learner()
    quiet_fit(learn, 2)
    learn.model.seen = 0
    c = learner_card(learn, n=50)
    assert learn.model.seen==len(valid)
    with torch.no_grad(): p = learn.model.net.eval()(valid.x).softmax(1).numpy()
    y = np.array(valid.targets)
    near(c['networks'][0]['confusion'], sk.confusion_matrix(y, p.argmax(1), labels=range(4)))
    near(c['scores'][0]['scores']['mcc']['value'], sk.matthews_corrcoef(y, p.argmax(1)))
    assert len(c['networks'][0]['history']['train_loss'])==2 and c['classes'][0]['images']==60
    learn.model.seen = 0
    groups = np.arange(len(y))//3
    of_patients = learner_card(learn, preds=(p,y), n=50, groups=groups)
    assert of_patients['n_groups']==groups.max()+1 and c['n_groups'] is None
    for name in 'networks','scores': assert of_patients[name]!=c[name]
    with pytest.raises(ValueError, match="The 'groups' parameter of report must be .* one for each validation item"):
        learner_card(learn, preds=(p,y), n=50, groups=groups[1:])
    again = learner_card(learn, preds=(torch.tensor(p), torch.tensor(y)), n=50)
    assert learn.model.seen==0
    near(again['networks'][0]['confusion'], c['networks'][0]['confusion'])
    report(learn, None, preds=(p,y), n=50).html()

def test_what_is_not_known_of_a_learner_is_not_said(tmp_path):
    learn,_ = points_learner()
    quiet_fit(learn, 1, [BalancedMixUp(.2, seed=0)])
    r = report(learn, tmp_path/'x.html', n=20)
    text = Page(r.path.read_text(encoding='utf-8')).text
    assert 'this network' not in r.card['sampling'] and 'callbacks' not in r.card['settings']
    assert 'callbacks and learning rate given to fit are not kept' in text
    for o in 'made again','who gained','who paid','folds','callbacks that the learner holds','`':
        assert o not in text, o
    learn.dls = learn.dls.weighted('sqrt')
    c = learner_card(learn, n=20)
    near(c['sampling']['this network'], c['sampling']['square root'], .2)
    learn.add_cb(BalancedMixUp(.2))
    assert learner_card(learn, n=20)['settings']['callbacks']==['balanced_mix_up']

def test_a_learner_that_answers_one_class():
    learn,valid = points_learner()
    y = np.array(valid.targets)
    p = np.tile([.1,.2,.6,.1], (len(valid),1))
    r = report(learn, None, preds=(p,y), name='mine', n=20)
    said = f"mine answered '{r.card['vocab'][2]}' to every image: too little was learned; train longer."
    assert said in Page(r.html()).text
    wrong = np.roll(np.eye(4), 1, 1)[y]
    assert learner_card(learn, preds=(wrong,y), n=20)['not_learned']==[]

def test_calibration_of_a_learner_is_by_other_images():
    "Random answers stay random: a calibrator that had seen the labels it is held against would look better than chance"
    learn,_ = points_learner((150,150))
    z = 8*np.random.default_rng(0).normal(size=(300,2)) # sure of itself, and of nothing to do with the classes
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    preds = p,np.array(Points((150,150), seed=1).targets)
    e = learner_card(learn, preds=preds, n=20)['networks'][0]['errors']
    assert e['as trained']['brier']>.8 and e['calibrated']['brier']>=.5-1e-3

def test_learner_that_was_not_trained_and_has_few_images():
    learn,_ = points_learner((8,6,4,2))
    text = written(learn)
    for o in 'was not trained in this session','too few to calibrate on','nothing is compared','cannot be opened':
        assert o in text, o

def test_learner_errors():
    learn,_ = points_learner()
    for bad in 3,None,[learn]:
        with pytest.raises(ValueError, match='a folder of `compare`, its results, or a Learner'): report(bad, None)
    for preds,words in ((np.eye(4),None),'true classes'),((2*np.eye(4),np.arange(4)),'rows of probabilities'):
        with pytest.raises(ValueError, match=words): learner_card(learn, preds=preds)

@pytest.mark.slow
def test_the_epochs_of_a_fit_outlive_predictions(tmp_path):
    parts = [TfmdDL(Points((60,30,20,10), seed=i), bs=8) for i in (0,1)]
    learn = Learner(DataLoaders(*parts), make_net(), loss_func=CrossEntropyLossFlat())
    quiet_fit(learn, 3)
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.lr_find(num_it=20, show_plot=False) # its epochs are no fit, nor are those of predictions
        preds = learn.get_preds()
    history = learner_card(learn, preds=preds, n=20)['networks'][0]['history']
    assert [len(o) for o in history.values()]==[3]*len(history) and {'train_loss','valid_loss'} <= {*history}
    quiet_fit(learn, 2) # a later fit takes its place
    with learn.no_bar(): learn.get_preds()
    r = report(learn, tmp_path/'x.html', preds=preds, n=20)
    assert [len(o) for o in r.card['networks'][0]['history'].values()]==[2]*len(history)
    assert 'There are no training curves' not in Page(r.html()).text

def test_a_network_begins_with_its_scores():
    learn,_ = points_learner()
    quiet_fit(learn, 1)
    page = Page(report(learn, None, name='mine', n=50).html())
    assert page.text.index('mine, 4 classes') < page.text.index('Balanced accuracy, as trained') < 900
    assert 'MCC, as trained' in page.text and 'Rarest class: ' in page.text

def test_wrong_calls_of_report_are_named(folder, tmp_path):
    learn,_ = points_learner()
    alone = Learner(digits_lt(size=8, n_max=8, imbalance=4, valid_pct=0), small_net(10)) # as an exported one
    for args,kwargs,words in [
            ((learn,), dict(basline='instance'), "There is no argument 'basline'"),
            ((folder,), dict(basline='instance'), "There is no argument 'basline'. Did you mean 'baseline'?"),
            ((tmp_path/'none',), {}, f"a folder of `compare`, its results, or a Learner. Got '{tmp_path}/none'"),
            ((alone,), {}, 'must be a Learner with validation images, or come with `preds`. Got one without instead.')]:
        with pytest.raises(ValueError, match=re.escape(words)): report(*args, None, **kwargs)

# ------------------------------------------------------------------ the head of the page

def cards_of(card):
    "Text of each card at the head of a page"
    cards = Report(card).html().split('<div class="two')[0].split('<div class="card">')[1:]
    return [' '.join(re.sub('<[^>]*>', '', o.replace('</h2>', ' ').replace('<br>', ' ')).split()) for o in cards]

def changed(card, **kwargs): return json.loads(json.dumps(card | kwargs))

def test_the_best_method_and_by_how_much(card):
    tested = [o for o in card['differences'] if (o['metric'],o['point'])==('mcc','train prevalence')]
    assert len(tested)==1
    none = dict(shown='', diff=.011, low=-.02, high=.04, mdd80=.047)
    rows = [o | none | dict(diff=.05*(o is not tested[0])) for o in card['differences']]
    best = cards_of(changed(card, differences=rows))[0]
    assert best.startswith('Best method none shown') and '5 points or more would probably have been found' in best
    assert 'Tested first: Class-balanced sampling +0.0 points (−2.0 to +4.0), MCC, at the training prevalence.' in best
    better = dict(shown='better', diff=.042, low=.011, high=.073)
    rows = [o | (better if o is tested[0] else none) for o in card['differences']]
    best = cards_of(changed(card, differences=rows))[0]
    assert best.startswith('Best method +4.2 points Class-balanced sampling (+1.1 to +7.3)')
    assert 'MCC, at the training prevalence. A difference is shown.' in best
    rows = [o | (better if o['point']=='as trained' and o['metric']=='mcc' else none) for o in card['differences']]
    assert 'At equal operating points no difference is shown.' in cards_of(changed(card, differences=rows))[0]
    rows = [o | none | dict(kind='one run') for o in card['differences']]
    assert 'One run each: nothing can be concluded' in cards_of(changed(card, differences=rows))[0]
    assert 'no second method' in cards_of(changed(card, differences=[]))[0]

def test_scores_and_the_rarest_class_of_plain_and_best(folder, card):
    _,score,rarest,_ = cards_of(card)
    assert score.startswith('Balanced accuracy, as trained') and rarest.startswith('Rarest class: di')
    for name in 'Plain sampling','Class-balanced sampling': assert name in score and name in rarest
    y,p,paths,_ = answers(folder, 'class')
    hits = pd.Series((p.argmax(1)==y)[y==3]).groupby(paths[y==3]).mean()
    assert hits.sum()%1==.5 and f'{hits.sum():.1f} of {len(hits)} found' in rarest
    mean = 100*card['networks'][1]['mark']['balanced_acc']
    assert f'{mean:.1f} %' in score

def test_what_moving_the_prior_gains_is_that_of_the_baseline_itself(card):
    "In the sentence on the threshold: of the plain network as trained and moved, not the difference of differences"
    def with_(values, **rows):
        scores = json.loads(json.dumps(card['scores']))
        for o in scores:
            if o['method']=='instance': o['scores']['balanced_accuracy']['value'] = values[o['point']]
        differences = [o | dict(diff=rows.get(o['point'].split()[0], .1), shown='') if o['metric']=='balanced_accuracy'
                       else o | dict(shown='', diff=0.) for o in card['differences']]
        return Page(Report(changed(card, scores=scores, differences=differences)).html()).text
    values = {'as trained':.456, 'train prevalence':.5, 'balanced prior':.633}
    text = with_(values, **{'as':.273, 'balanced':.148})
    assert ('gains 27.3 points of balanced accuracy. Moving the prior changes plain sampling by +17.7. With both '
            'moved, class-balanced sampling is 14.8 points ahead, not shown to be more than chance.') in text
    assert 'nothing of the gain is left (−1.0).' in with_(values, **{'as':.273, 'balanced':-.01})

def test_faults_of_the_data_are_those_of_the_last_verification(tmp_path):
    images = tmp_path/'lesions'
    rng = np.random.default_rng(0)
    for c in 'abc':
        (images/c).mkdir(parents=True)
        for i in range(3): Image.fromarray(rng.integers(255, size=(8,8,3), dtype=np.uint8)).save(images/c/f'{i}.png')
    (images/'b'/'2.png').write_bytes((images/'a'/'0.png').read_bytes())
    (images/'c'/'1.png').write_bytes(b'no image')
    data = from_folder_table(images)
    res = write_results(tmp_path/'r', ['a','b','c'])
    def said():
        card = results_card(res, data=data)
        return card['faults'],cards_of(card)[3]
    faults,text = said()
    assert not faults and text.startswith('Data not checked')
    data.verify(num_workers=0, progress=False)
    faults,text = said()
    assert faults==dict(unreadable=1, doubles=1, contradictions=1, across_parts=0)
    assert text.startswith('Data 2 faults 1 unreadable · 1 exact double, 1 with different labels')
    assert 'Patients are not known' in text
    (images/'a'/'1.png').write_bytes(b'changed since')
    assert said()[0]=={}

@pytest.mark.thinned(2)
@pytest.mark.parametrize('name,place,reader,want', [
    ('train', 'lesions/train', 'from_folder_table', 'lesions'),
    ('Images', 'lesions/data/Images', 'from_folder_table', 'lesions'),
    ('labels', 'lesions/labels.csv', 'from_csv', 'lesions'), ('cells', 'lesions/cells', 'from_folder_table', 'cells'),
    ('data', None, None, 'data')])
def test_a_folder_of_a_common_name_gives_the_page_that_of_its_parent(tmp_path, name, place, reader, want):
    key = dict(from_folder_table='folder', from_csv='csv').get(reader)
    settings = 'data: given in Python\n'
    if place: settings = f'data:\n  reader: {reader}\n  {key}: {tmp_path/place}\n'
    res = write_results(tmp_path/'r', ['a','b'], data=name, settings=settings)
    r = report(res, None)
    assert r.card['name']==want and f'<h1 id="title">{want}: ' in r.html()

def test_names_of_files_may_be_broken(pages, tmp_path):
    res = write_results(tmp_path/'r', ['a','b'], names='{f}/a_long-name of {i}.jpg')
    assert re.search(r'<code>[12]/<wbr>a_<wbr>long-<wbr>name of \d+\.jpg</code>', report(res, None).html())

def test_advice_and_headline_are_those_of_the_terminal(folder, card):
    answer = summarise(Results(folder), 'instance').answer
    assert card['headline']==headline(answer) and card['advice']==advice(answer)
    html = Report(changed(card, headline='One sentence.', advice=['First this.','Then that.'])).html()
    assert '<p class="verdict">One sentence.</p>' in html
    assert '<p class="next"><b>Next:</b> first this. Then that.</p>' in html
    assert 'class="next"' not in Report(changed(card, advice=[])).html()

@pytest.mark.slow
def test_of_many_classes_twelve_are_drawn_and_all_are_in_tables(tmp_path):
    vocab = [f'finding {i}' for i in range(40)]
    page = report(write_results(tmp_path/'r', vocab, n=400), None)
    sections = dict(o.split('"', 1) for o in page.html().split('<section id="')[1:])
    for part in 'gains','taken':
        drawn = {o for o in re.findall(r'finding \d+', ' '.join(re.findall(r'<text[^>]*>([^<]*)', sections[part])))}
        assert len(drawn)==12, part
        assert re.search('Drawn: .*twelve of 40 classes, and groups by size', sections[part])
    assert {*re.findall(r'finding \d+', sections['classes'].split('<details><summary>')[1])}=={*vocab}

def test_a_notebook_links_to_the_page(card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'out of it').mkdir()
    r = Report(card).save('out of it/r.html')
    assert '<a href="out%20of%20it/r.html" target="_blank" rel="noopener">' in r._repr_html_()
    monkeypatch.chdir('out of it')
    for outside in tmp_path/'r.html',None: assert '<a href' not in Report(card, outside)._repr_html_()
    assert r._repr_html_().count('class="card"')==4

# ------------------------------------------------------------------ the command, and where it writes

def test_command(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    balmix_report(folder, out=tmp_path/'page.html', positive='cy, di', prevalence=.05)
    out = capsys.readouterr().out
    assert f"Page     {tmp_path/'page.html'}" in out and 'No difference between' in out
    text = Page((tmp_path/'page.html').read_text(encoding='utf-8')).text
    assert 'a prevalence of 5 %' in text and 'cy, di' in text
    for kwargs,words in (
        (dict(folder=tmp_path),'holds no results of balmix-compare'),
        (dict(folder=folder, out='x.txt'),"ends in '.html'"),
        (dict(folder=folder, out='none/x.html'),'a folder that is there'),
        (dict(folder=folder, positive='no'),'must be a class')):
        with pytest.raises(SystemExit, match=f'balmix-report: .*{re.escape(words)}'): balmix_report(**kwargs)

@pytest.mark.parametrize('recipe, lost', [
    ('reader: from_folder_table, folder: x','an existing folder'), ('reader: from_csv, csv: x','an existing file')])
def test_the_command_names_what_was_typed(tmp_path, recipe, lost):
    "The folder of results is typed without a name, and the data after --data, whatever their reader calls it"
    res = write_results(tmp_path/'r', ['a','b','c'], settings=f'data: {{{recipe}}}\n')
    with pytest.raises(SystemExit) as e: balmix_report(res, data=tmp_path/'nowhere')
    assert ' '.join(str(e.value).split()).startswith(f'balmix-report: The --data option must be {lost}. Got')
    for o in 'results.csv','runs': (res/o).rename(tmp_path/o)
    with pytest.raises(SystemExit) as e: balmix_report(res)
    assert ' '.join(str(e.value).split())==('balmix-report: The FOLDER argument must be one that holds results.csv, as '
                                            f"balmix-compare writes it. Got '{res}' instead.")

def test_a_page_is_written_into_the_folder_of_results(folder, tmp_path, capsys, monkeypatch):
    where = shutil.copytree(folder, tmp_path/'copy')
    monkeypatch.setattr(Report, 'html', lambda self: '<!doctype html><meta name="generator" content="fastai_balmix 1">')
    monkeypatch.chdir(tmp_path)
    for results in where,str(where),Results(where):
        assert report(results).path==where/'report.html'
        (where/'report.html').unlink()
    balmix_report(Path('copy'))
    assert capsys.readouterr().out.splitlines()[-1]=='Page     copy/report.html'
    (where/'report.html').write_text('mine')
    with pytest.raises(SystemExit, match='is not a report. It is kept'): balmix_report(where)
    assert (where/'report.html').read_text()=='mine' and [o.name for o in tmp_path.iterdir()]==['copy']

def test_a_file_that_is_no_report_is_kept(card, tmp_path, monkeypatch):
    monkeypatch.setattr(Report, 'html', lambda self: '<!doctype html><meta name="generator" content="fastai_balmix 1">')
    own = tmp_path/'mine.html'
    own.write_text('<p>mine</p>')
    with pytest.raises(ValueError, match='is not a report. It is kept'): Report(card).save(own)
    assert own.read_text()=='<p>mine</p>'
    r = Report(card).save(tmp_path/'r.html')
    r.save(tmp_path/'r.html')

# ------------------------------------------------------------------ batches before training

def test_pairs_are_shown_of_the_items_that_a_sampler_visits():
    ds,subset = Counting(tail_targets(60,30,10), shape=(3,4,4)),range(50,70)
    BalancedMixUp(.2, seed=0).show(DataLoaders(DataLoader(ds, 8, sampler=SubsetRandomSampler(subset))), n=10)
    # The first item opened is the one on which the inputs are checked
    assert len(ds.opened)==21 and {*ds.opened[1:]} <= {*subset} and len({*ds.opened[1:11]})==10

# ------------------------------------------------------------------ size

@pytest.mark.slow
def test_a_report_of_many_methods_classes_and_images_is_small(tmp_path):
    "23 classes, 10,000 images, eight methods, five folds; a mistake is a picture of noise, which JPEG cannot shrink"
    methods = [('instance',2.),('class',1.9),*((f'method {i}',2+.1*i) for i in range(6))]
    vocab = [f'finding of kind {i}' for i in range(23)]
    res = write_results(tmp_path/'r', vocab, methods=methods, folds=(1,2,3,4,5), n=2000)
    c = results_card(res)
    rng = np.random.default_rng(0)
    for net in c['networks']:
        for o in net['mistakes']:
            o['image'] = thumbnail(rng.normal(128, 20, (128,128,3)).clip(0, 255).astype(np.uint8))
    Report(c).save(tmp_path/'x.html')
    assert (tmp_path/'x.html').stat().st_size<5e6
    Page((tmp_path/'x.html').read_text(encoding='utf-8'))
