"""What a tutorial promises and where it leads, which running it does not show; and the stored results that one of them
reads, against scikit-learn and against the figures of the docs."""
import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import root
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef

folder = root/'nbs'/'tutorials'
tutorials = sorted(folder.glob('0*.ipynb'))+[folder/'rivals.ipynb']

def markdown(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type']=='markdown']

@pytest.mark.parametrize('path', tutorials, ids=lambda p: p.stem)
def test_a_tutorial_says_what_one_will_have_and_what_to_read_next(path):
    cells = markdown(path)
    assert re.match(r'# .+\n\n> .+', cells[0])
    assert 'the end of this page you will' in ' '.join(cells[:3])
    last = cells[-1].split('## What to read next')
    assert len(last)==2 and len(re.findall(r'\]\([^)]+\.ipynb\)', last[1]))>=3

@pytest.mark.parametrize('path', sorted(folder.glob('*.ipynb')), ids=lambda p: p.stem)
def test_links_of_a_tutorial_lead_somewhere(path):
    links = re.findall(r'\]\(([^)\s#:]+)(?:#[^)]*)?\)', '\n'.join(markdown(path)))
    assert not [o for o in links if not (path.parent/o).exists()]

@pytest.mark.parametrize('path', sorted(folder.glob('*.ipynb')), ids=lambda p: p.stem)
def test_hidden_cells_of_a_tutorial_are_collapsed_in_jupyter(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    hidden = [c for c in cells if ''.join(c['source']).startswith('#| hide')]
    shown = [''.join(c['source'])[:80] for c in hidden if not c['metadata'].get('jupyter', {}).get('source_hidden')]
    assert hidden and not shown, 'give these cells the metadata {"jupyter": {"source_hidden": true}}'

raw_list = re.compile(r'\[0, [\d.]+(?:, [\w.\':]+){3,}') # what fastai prints of an epoch without a table

@pytest.mark.parametrize('path', sorted(folder.glob('*.ipynb')), ids=lambda p: p.stem)
def test_a_tutorial_shows_tables_and_no_lists_of_numbers(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    texts = [''.join(o.get('text', '')) for c in cells if c['cell_type']=='code' for o in c['outputs']]
    assert not [t for t in texts if raw_list.search(t)], 'leave out `learn.no_bar()`'

def test_a_list_of_numbers_is_seen():
    assert raw_list.search("[0, 0.933, 0.919, 0.0, '00:01']") and raw_list.search('[0, 1.1, 2.2, 3.3, None]')
    assert not raw_list.search('epoch  train_loss\n0      0.933  0.919  00:01')

def test_readme_leads_to_tutorials_and_the_site_to_all():
    text = (root/'README.md').read_text(encoding='utf-8')
    assert all(f'(nbs/tutorials/{p.name})' in text for p in tutorials[:2])
    nav = (root/'docs'/'mkdocs.yml').read_text(encoding='utf-8')
    assert not [p.stem for p in folder.glob('*.ipynb') if f'tutorials/{p.stem}.md' not in nav]

# The comparison on Fashion-MNIST

@pytest.fixture(scope='module')
def stored():
    kept = folder/'fashion'
    with np.load(kept/'answers.npz') as f: answers = dict(f)
    return pd.read_csv(kept/'results.csv'),answers,json.loads((kept/'meta.json').read_text())

def test_kept_answers_give_the_scores_beside_them(stored):
    df,kept,meta = stored
    assert kept['answers'].shape==(10_000,24,3) and len(df)==72
    assert (np.bincount(kept['targs'])==1000).all()
    w = 10*np.array(meta['prevalence'])[kept['targs']]
    for o in df.itertuples():
        p = kept['answers'][:,[*kept['runs']].index(o.run),[*kept['points']].index(o.point)]
        assert balanced_accuracy_score(kept['targs'], p)==pytest.approx(o.balanced_accuracy, abs=2e-6)
        if o.seed==0: assert matthews_corrcoef(kept['targs'], p, sample_weight=w)==pytest.approx(o.mcc, abs=2e-6)

def test_figures_of_the_docs_are_those_of_the_stored_scores(stored):
    df,measured = stored[0],pd.read_csv(root/'docs'/'measured'/'fashion.csv')
    assert len(measured)==6*3*3
    for o in measured.itertuples():
        at_point = df[df.point==o.point].sort_values('seed')
        x,base = (at_point[at_point.method==m][o.metric].to_numpy() for m in (o.method,'instance'))
        assert 100*x.mean()==pytest.approx(o.mean, abs=.0051) and len(x)==4
        if o.method!='instance':
            d = 100*(x-base)
            half = 3.182446*d.std(ddof=1)/2 # the 97.5 % point of Student's t with 3 degrees of freedom
            interval = d.mean(),d.mean()-half,d.mean()+half
            assert interval==pytest.approx((o.diff,o.diff_low,o.diff_high), abs=.0051)
    assert {'command','versions','machine'} <= {*measured.columns}

def test_nothing_of_one_machine_is_kept():
    files = [*folder.glob('fashion/*.csv'), *folder.glob('fashion/*.json'), root/'docs'/'measured'/'fashion.csv']
    text = '\n'.join(p.read_text() for p in files)
    assert '/root' not in text and '/home' not in text and 'host' not in text
    assert sum(p.stat().st_size for p in folder.glob('fashion/*'))<300_000

def test_the_guide_says_what_each_method_is_for():
    from fastai_balmix.compare.names import described
    text = (root/'docs'/'pages'/'which_method.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| (`.+?) \|', text.partition('## Every method by name')[2], re.M)
    named = [o for row in rows for o in re.findall(r'`([^`]+)`', row)]
    assert sorted(named)==sorted(described)
