"""Files and names that somebody prepared. Nothing in a file is run, and no name leads out of its folder.

Each reader has a test of its own as well (settings: `test_protocol.py`, predictions: `test_runs.py`, checkpoints:
`test_checkpoint.py`, tables: `test_data.py`). Here is what holds for all code of the package, and what these leave
open."""

import ast
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import root
from PIL import Image

from fastai_balmix.compare.config import make_model
from fastai_balmix.compare.records import read_predictions
from fastai_balmix.compare.results import read_failures
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.datasets.tables import from_csv
from fastai_balmix.datasets.trees import from_folder_table

modules = sorted((root/'fastai_balmix').rglob('*.py'))

def dotted(o):
    "Name of what is called, such as np.load"
    if isinstance(o, ast.Attribute): return f'{dotted(o.value)}.{o.attr}'
    return o.id if isinstance(o, ast.Name) else ''

def calls(text):
    "Name and keywords of each call"
    for o in ast.walk(ast.parse(text)):
        if isinstance(o, ast.Call): yield dotted(o.func),{k.arg: ast.unparse(k.value) for k in o.keywords}

# What unpickles, and why it may: bytes of this run's own processes, in memory that has no name, and jobs that a
# comparison sends to its own workers
# A child watches its parent before it can import anything: the text is that of `children`
unpickled = {('store.py','pickle.loads'),('pool.py','cloudpickle.loads')}
runs_code = {
    'eval','exec','compile','os.system','os.popen','__import__','yaml.load','yaml.unsafe_load','yaml.full_load',
    'pd.read_pickle','pd.eval','marshal.loads','shelve.open','joblib.load','load_learner','load_pickle'}

def misdeeds(name, text):
    "Calls that would run what is in a file"
    res = []
    for f,kw in calls(text):
        end = f.rpartition('.')[2]
        if (name,f)==('children.py','exec'): continue
        if f in runs_code or end in ('load_learner','load_pickle'): res.append(f)
        if f=='torch.load' and kw.get('weights_only')!='True': res.append(f)
        if f=='np.load' and kw.get('allow_pickle')!='False': res.append(f)
        if end in ('loads','load','Unpickler') and 'pickle' in f and (name,f) not in unpickled: res.append(f)
        if kw.get('shell','False')!='False': res.append(f)
        if end in ('query','eval') and f.startswith(('df','pd','self.df')): res.append(f)
    return res

def test_no_code_of_the_package_runs_what_is_in_a_file():
    assert len(modules)>20
    for p in modules: assert misdeeds(p.name, p.read_text(encoding='utf-8'))==[], p.name

@pytest.mark.parametrize('text', [
    'eval(x)', 'yaml.load(f)', 'torch.load(f)', 'torch.load(f, weights_only=False)', 'np.load(f)',
    'np.load(f, allow_pickle=True)', 'pickle.load(f)', 'pickle.loads(b)', 'cloudpickle.load(f)',
    'subprocess.run(x, shell=True)', 'load_learner(p)', 'fv.load_learner(p)', 'pd.read_pickle(p)', 'df.query(x)',
    'os.system(x)'])
def test_misdeeds_are_seen(text): assert misdeeds('x.py', text)

class Malice:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir,(str(self.path),)

def test_weights_of_a_stranger_are_not_run(tmp_path):
    harm = tmp_path/'harm'
    old = dict(_use_new_zipfile_serialization=False)
    torch.save(dict(state_dict=Malice(harm)), tmp_path/'a.pth')
    torch.save(Malice(harm), tmp_path/'b.pth', **old)
    (tmp_path/'c.pth').write_bytes(pickle.dumps(Malice(harm)))
    for name in 'a.pth','b.pth','c.pth':
        with pytest.raises(Exception) as e: make_model('test_byobnet', 3, tmp_path/name)
        assert not harm.exists() and str(e.value)

def test_arrays_of_a_stranger_are_not_run(tmp_path):
    np.savez(tmp_path/'predictions.npz', **{'report/probs/x': np.array([Malice(tmp_path/'harm')], dtype=object)})
    with pytest.raises(ValueError, match='cannot be read'): read_predictions(tmp_path)
    with zipfile.ZipFile(tmp_path/'predictions.npz', 'w') as z: z.writestr('../../out.npy', b'x')
    with pytest.raises(ValueError): read_predictions(tmp_path)
    assert not (tmp_path/'harm').exists() and not (tmp_path.parent.parent/'out.npy').exists()

@pytest.mark.parametrize('content', ['{}', '[]', 'null', '{"run": 1}', '{"settings": ["a"]}', '\x00',
                                     '{"run": "../../x", "settings": "s", "error": 5}'])
def test_records_of_failures_that_are_none(tmp_path, content):
    p = tmp_path/'runs'/'a'/'error.json'
    p.parent.mkdir(parents=True)
    p.write_text(content)
    for settings in None,'s': assert isinstance(read_failures(tmp_path, settings), list)

@pytest.mark.parametrize('path', ['../out.png','a/../../out.png','./../out.png','/etc/passwd','a//../..//out.png','..',
                                  'C/../../../out.png'])
def test_paths_of_a_table_stay_in_the_root(tmp_path, path):
    (tmp_path/'root').mkdir()
    (tmp_path/'out.png').write_bytes(b'x')
    (tmp_path/'t.csv').write_text(f'path,label\n"{path}",a\nin.png,b\n')
    with pytest.raises(ValueError, match='paths inside the root'): from_csv(tmp_path/'t.csv', root=tmp_path/'root')
    df = pd.DataFrame(dict(path=[path,'in.png'], label=['a','b']))
    with pytest.raises(ValueError, match='paths inside the root'): ImageData(df, ['a','b'], root=tmp_path/'root')

def test_odd_names_are_names(tmp_path):
    "Names that mean something to a shell, a page, a table or a pattern"
    names = ['$(touch harm)','<script>alert(1)</script>'.replace('/','|'),'=cmd','a\nb','*','-rf','{0}','%s']
    for k,nm in enumerate(names):
        (tmp_path/'im'/nm).mkdir(parents=True)
        for i in range(3): Image.new('RGB', (8,8), (k*9,i*9,0)).save(tmp_path/'im'/nm/f'{nm}{i};ls.png')
    data = from_folder_table(tmp_path/'im')
    assert sorted(data.vocab)==sorted(names) and data.missing==[]
    assert data.verify(num_workers=0, progress=False).bad.empty
    dls = data.with_folds(3, seed=0).dataloaders(1, size=8, bs=4, num_workers=0)
    assert len(dls.one_batch()[0])==4 and not Path('harm').exists() and not (tmp_path/'harm').exists()
