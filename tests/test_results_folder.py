"""A folder of results that a disk has damaged, another program has changed, or a stranger has prepared: `compare`,
`summarise` and `report` end soon, take nothing from outside it, show no wrong figure, and lose
nothing that is finished."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from made import write_results
from PIL import Image

from fastai_balmix.bounded import Unreadable, json_of, read_arrays, read_bounded, yaml_of
from fastai_balmix.callback.show import plot_class_distribution
from fastai_balmix.commands import quiet_import
from fastai_balmix.compare import Method, Results, attempts, compare, paper_table, summarise
from fastai_balmix.compare.folder import Collected
from fastai_balmix.compare.methods import find_method
from fastai_balmix.compare.records import read_predictions, read_record, sealed, whole_record
from fastai_balmix.compare.settings import read_settings
from fastai_balmix.datasets import digits, from_csv, from_folder_table
from fastai_balmix.datasets.sources import read_data
from fastai_balmix.report import report, results_card
from fastai_balmix.words import cell_text, cell_value, markdown_text

recipe = dict(archs='small', epochs=1, size=None, bs=32, lr=.05, augment='none', pretrained=False, tta=False,
              show=False)

def compared(out, methods=('instance','class'), data=None, **kwargs):
    return compare(digits(n_folds=2) if data is None else data, methods, out=out, **(recipe|kwargs))

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A folder of four runs"
    out = tmp_path_factory.mktemp('whole')/'out'
    compared(out)
    report(out, out/'report.html')
    return out

@pytest.fixture
def out(whole, tmp_path): return shutil.copytree(whole, tmp_path/'out')

def figures(res):
    "All figures of results, and not how long they took"
    df = res.df.drop(columns=['seconds','train_seconds','started','host','revision'])
    return df.sort_values(['run','part','point']).reset_index(drop=True)

def assert_same(res, want): pd.testing.assert_frame_equal(figures(res), figures(want), check_dtype=False)

def a_run(out, method='instance'): return next(out.glob(f'runs/{method}-*'))

# ------------------------------------------------------------------ nothing from outside

def photographs(root, names=('a','b'), n=12):
    for k,c in enumerate(names):
        (root/c).mkdir(parents=True)
        for i in range(n):
            noise = np.random.default_rng([k,i]).integers(255, size=(8,8,3), dtype=np.uint8)
            Image.fromarray(noise).save(root/c/f'{i}.png')
    return root

@pytest.mark.slow
def test_a_report_opens_nothing_outside_the_folder(out, tmp_path):
    outside = photographs(tmp_path/'private')
    settings = yaml.safe_load((out/'settings.yaml').read_text())
    hostile = dict(reader='from_folder_table', folder=str(outside), verify=True, group='(a+)+$')
    (out/'settings.yaml').write_text(yaml.safe_dump(settings|dict(data=hostile)))
    opened: list = []
    def hook(event, args):
        if event in ('open','os.scandir','os.listdir') and opened is not None: opened.append(str(args[0]))
    sys.addaudithook(hook)
    report(out, tmp_path/'page.html')
    assert opened and not [o for o in opened if 'private' in o]
    opened = None # the hook cannot be removed
    assert not (outside/'.balmix_verified.csv').exists()

def test_data_that_are_named_show_mistakes(tmp_path):
    root = photographs(tmp_path/'private')
    data = from_folder_table(root).with_folds(2)
    res = compared(tmp_path/'out', data=data, size=8, bs=8)
    def pictures(card): return [o['image'] is not None for net in card['networks'] for o in net['mistakes']]
    assert all(pictures(results_card(res))) # this process has trained on them
    assert not any(pictures(results_card(tmp_path/'out')))
    assert all(pictures(results_card(tmp_path/'out', data=root)))
    moved = root.rename(tmp_path/'moved')
    assert all(pictures(results_card(tmp_path/'out', data=str(moved))))

def test_a_table_and_its_images_are_found_where_they_were_moved(tmp_path):
    root = photographs(tmp_path/'old'/'im')
    rows = [dict(image=p.relative_to(root).as_posix(), dx=p.parent.name) for p in sorted(root.rglob('*.png'))]
    pd.DataFrame(rows).to_csv(tmp_path/'old'/'t.csv', index=False)
    data = from_csv(tmp_path/'old'/'t.csv', path='image', label='dx', root=root).with_folds(2)
    compared(tmp_path/'out', data=data, size=8, bs=8)
    (tmp_path/'old').rename(tmp_path/'new')
    for place in tmp_path/'new',tmp_path/'new'/'t.csv':
        card = results_card(tmp_path/'out', data=place)
        assert all(o['image'] for net in card['networks'] for o in net['mistakes'])

@pytest.mark.thinned(5)
@pytest.mark.parametrize('name', ['meta.json','settings.yaml','results.csv','runs/*/run.json','runs/*/predictions.npz'])
@pytest.mark.parametrize('kind', ['pipe','link','folder','gone'])
def test_files_that_are_none(out, tmp_path, name, kind):
    "Nothing waits, no link is followed, and the comparison mends what is amiss or says how"
    path = next(out.glob(name))
    kept = path.read_bytes()
    path.unlink()
    if kind=='pipe': os.mkfifo(path)
    if kind=='folder': path.mkdir()
    if kind=='link':
        (tmp_path/'elsewhere').write_bytes(kept)
        path.symlink_to(tmp_path/'elsewhere')
    try: results_card(out)
    except ValueError as e: assert str(out) in str(e) or path.parent.name in str(e)
    restored(out)
    if kind=='link': assert (tmp_path/'elsewhere').read_bytes()==kept

def restored(out):
    "Results after the same call again, and after the lines that errors name"
    res = None
    for _ in range(3):
        try: res = compared(out)
        except RuntimeError as e: words = [str(e)]
        else: words = [o['error'] for o in res.meta['failed']]
        if not words: return res
        for o in words:
            line = re.search(r'Remove it with: rm -r (\S+)', o)
            assert line, o
            path = Path(*shlex.split(line[1]))
            assert path.is_relative_to(out)
            if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
            else: path.unlink(missing_ok=True)
    raise AssertionError(words)

# ------------------------------------------------------------------ bounded

@pytest.mark.slow
def test_archives_that_unpack_to_gigabytes(out):
    path = a_run(out)/'predictions.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as z, \
            z.open('report/probs/as trained.npy', 'w', force_zip64=True) as f:
        np.lib.format.write_array_header_1_0(f, dict(descr='<f4', fortran_order=False, shape=(10**8,10)))
        for _ in range(4000): f.write(bytes(10**6))
    assert path.stat().st_size<5e7
    with pytest.raises(ValueError, match='cannot be read') as e: read_predictions(path.parent)
    assert 'would unpack to 4,000.0 MB' in str(e.value.__cause__)

@pytest.mark.parametrize('text', ['['*10**5, '{"a":'*10**5, '[' *60+']'*60, '9'*10**4, '"\\ud800'])
@pytest.mark.parametrize('name', ['meta.json','runs/*/run.json','runs/*/error.json'])
def test_json_of_any_depth_ends_in_a_word(out, name, text):
    path = out/name if '*' not in name else a_run(out)/Path(name).name
    path.write_text(text)
    try: Results(out)
    except ValueError as e: assert path.name in str(e)

@pytest.mark.thinned(4)
@pytest.mark.parametrize('text', [
    'a: &a [1,1,1]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n', '['*10**4, '- '*10**4, 'a: ' + '9'*10**4, '2026-13-41',
    '!!python/object/apply:os.system [ls]', '? [a]\n: b', '"\\x1b]0;x\\x07": &x 1\nb: *x', '\x00'])
def test_yaml_of_any_kind_ends_in_a_word(out, text):
    path = out/'settings.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match='settings.yaml') as e: read_settings(path)
    assert '\x1b' not in str(e.value)
    results_card(out)

@pytest.mark.parametrize('text', ['x: 1'+':1'*100, f'{2**61-1}: 1\n{2*(2**61-1)}: 1', 'x: !!int "1'+':1'*100+'"'])
def test_numbers_of_yaml_that_take_hours(tmp_path, text):
    "Of 16 MB: numbers to base 60 take hours, and so do keys of a dictionary that all have the same hash"
    (tmp_path/'a.yaml').write_text(text)
    with pytest.raises(Unreadable, match="a.yaml' is not a YAML file: a number has too many digits"):
        yaml_of(tmp_path/'a.yaml')

def test_what_is_too_large_is_not_read(tmp_path):
    with open(tmp_path/'a.json', 'wb') as f: f.truncate(10**10)
    for read in json_of,yaml_of,read_bounded:
        with pytest.raises(Unreadable, match=r"a.json' has 10,000.0 MB, but the limit is"):
            read(tmp_path/'a.json')
    with pytest.raises(Unreadable, match='no readable arrays'): read_arrays(tmp_path/'a.json')

def test_settings_that_we_write_have_no_aliases(tmp_path):
    names = [str(i) for i in range(10)]
    data = digits(n_folds=2)
    data.recipe = dict(data.recipe, then=[dict(step='merged', classes={'a': names, 'b': names})])
    compared(tmp_path/'out', ['instance'], data=data, folds=[1])
    assert read_settings(tmp_path/'out'/'settings.yaml')['data']['then'][0]['classes']==dict(a=names, b=names)

@pytest.mark.slow
def test_expressions_end(tmp_path):
    (tmp_path/'im'/'b').mkdir(parents=True)
    photographs(tmp_path/'im', names=('a',), n=1)
    for i in range(3): Image.new('RGB', (8,8)).save(tmp_path/'im'/'b'/f'{"a"*40}{i}.png')
    slow = r"searched for in a few seconds. Got '\(\(a\+\)\+\)\$', which took more than 5 s"
    with pytest.raises(ValueError, match=slow):
        read_data(dict(reader='from_folder_table', folder=str(tmp_path/'im'), group='((a+)+)$'))

@pytest.mark.parametrize('place', ['/proc','/proc/self/fd','/sys','/dev'])
def test_places_of_the_system_are_no_data(place, tmp_path):
    (tmp_path/'link').symlink_to(place)
    for folder in place,tmp_path/'link':
        with pytest.raises(ValueError, match='belongs to the operating system'):
            read_data(dict(reader='from_folder_table', folder=str(folder)))
    root = photographs(tmp_path/'im')
    (root/'a'/'more').symlink_to(place)
    assert any('a folder of the operating system and is not followed' in o for o in from_folder_table(root).notes)

def test_pipes_among_images_are_not_waited_for(tmp_path):
    root = photographs(tmp_path/'im')
    rows = ['path,label',*(f'{c}/{i}.png,{c}' for c in 'ab' for i in range(12)),'a/pipe.png,a','b/pipe.png,b']
    (root/'t.csv').write_text('\n'.join(rows))
    os.mkfifo(root/'a'/'pipe.png')
    (root/'b'/'pipe.png').symlink_to(root/'a'/'pipe.png')
    os.mkfifo(root/'.balmix_verified.csv')
    assert len(from_folder_table(root))==24
    data = from_csv(root/'t.csv')
    assert data.missing==['a/pipe.png','b/pipe.png'] and data.fingerprint
    assert set(data.verify(num_workers=0, progress=False).bad.path)=={*data.missing}

# ------------------------------------------------------------------ damage

@pytest.mark.parametrize('key', ['run','settings','code','rows','history','n_bytes','epochs','best_epoch','seconds',
                                 'train_shares','train_counts','host','finished','versions','started','data','sha256',
                                 'seal'])
@pytest.mark.parametrize('value', [None,5,'x',[{}],{},'gone'])
def test_records_without_a_key_or_of_another_type(whole, tmp_path, key, value):
    "A run counts as finished with its own figures, or not at all"
    path = a_run(whole)
    shutil.copytree(path, tmp_path/'runs'/path.name)
    file = tmp_path/'runs'/path.name/'run.json'
    record = json.loads(file.read_text())
    if value=='gone': del record[key]
    else: record[key] = value
    file.write_text(json.dumps(record))
    got,want = read_record(file.parent),read_record(path)
    circumstances = ('host','finished','versions','started')
    assert (got is not None)==(key in circumstances or (key,value)==('seal','gone'))
    if got is not None: assert {**got, **{k: want[k] for k in circumstances}}==want

def changed(path, **changes):
    "Change arrays of the part that is reported, in a record without a seal and a hash"
    file = path/'predictions.npz'
    arrays = dict(np.load(file))
    for k,f in changes.items(): arrays |= {o: f(x) for o,x in arrays.items() if o.startswith(f'report/{k}')}
    np.savez(file, **{k: x for k,x in arrays.items() if x is not None})
    record = json.loads((path/'run.json').read_text())
    del record['seal'],record['sha256']
    (path/'run.json').write_text(json.dumps(dict(record, n_bytes=file.stat().st_size)))

@pytest.mark.parametrize('change', [
    dict(targs=lambda x: x-1), dict(targs=lambda x: x+100), dict(probs=lambda x: x[:,1:]),
    dict(probs=lambda x: x*np.nan),
    dict(p=lambda x: x[:,1:]/x[:,1:].sum(1, keepdims=True) if x.ndim==2 else x), dict(probs=lambda x: 2*x),
    dict(probs=lambda x: x.astype(np.longdouble)), {'probs/as':lambda x: None}, dict(paths=lambda x: np.arange(len(x))),
    dict(probs=lambda x: x-1)])
def test_predictions_that_are_none_are_named(out, change):
    path = a_run(out)
    changed(path, **change)
    for read in results_card,lambda o: summarise(Results(o)):
        with pytest.raises(ValueError, match='has predictions that cannot be read. Delete this folder') as e: read(out)
        assert str(path) in str(e.value)

@pytest.mark.parametrize('change', [
    dict(history=float('inf')), dict(history=[dict(valid_loss=10**400)]), dict(train_counts=float('nan')),
    dict(train_shares=[float('inf')]*10), dict(train_shares=[-1.]*10), dict(seconds=10**400)])
def test_records_without_a_seal_are_read_with_care(out, change):
    file = a_run(out)/'run.json'
    record = json.loads(file.read_text())
    del record['seal']
    file.write_text(json.dumps(record|change))
    assert read_record(file.parent) is None

def sealed_again(path, **changes):
    "Change a record and the size of its predictions, as who means to hide it would"
    record = json.loads((path/'run.json').read_text())
    row,size = changes.pop('row', {}),(path/'predictions.npz').stat().st_size
    rows = [o|row for o in record['rows']]
    del record['seal']
    (path/'run.json').write_bytes(sealed(record | dict(rows=rows, n_bytes=size) | changes))

@pytest.mark.parametrize('change', [
    dict(row=dict(mcc='0.5')), dict(row=dict(mcc=None)), dict(row=dict(mcc=5.)), dict(row=dict(mcc=-1.1)),
    dict(row=dict(accuracy=float('inf'))), dict(row=dict(brier=2.1)), dict(row=dict(mean_auc=True)),
    dict(row=dict(calibration=5)), dict(row=dict(n_images='x')), dict(history=[{'<b>': 1}]),
    dict(history=[dict(train_loss='x')]), dict(train_counts=[5]*3), dict(run='another'), dict(sha256=5),
    dict(train_counts=[5]*3, train_shares=[1/3]*3)])
def test_records_with_a_new_seal_are_read_with_care(out, whole, change):
    sealed_again(a_run(out), **change)
    for read in Results,results_card:
        with pytest.warns(UserWarning, match='1 of 4 finished runs cannot be read and are left out: instance-small'):
            read(out)
    assert_same(compared(out), Results(whole))

def test_undefined_scores_and_the_last_digits_are_no_damage(out):
    sealed_again(a_run(out), row=dict(mcc=float('nan'), accuracy=1+1e-12))
    assert read_record(a_run(out))

def test_folders_of_runs_that_were_mixed_up(out, whole):
    "Exchanged, or one a copy of another: neither is told by a seal"
    for swap in True,False:
        a,b = (a_run(out, o) for o in ('instance','class'))
        a.rename(out/'aside')
        if swap: b.rename(a)
        else: shutil.copytree(b, a)
        if swap: (out/'aside').rename(b)
        n = 2 if swap else 1
        with pytest.warns(UserWarning, match=f'{n} of 4 finished runs cannot be read'): res = Results(out)
        left = figures(Results(whole))
        pd.testing.assert_frame_equal(figures(res), left[left.run.isin(res.df.run)].reset_index(drop=True))
        assert_same(compared(out), Results(whole))

@pytest.mark.parametrize('has_seal', [True,False])
def test_predictions_that_the_scores_are_not_of(out, whole, has_seal):
    "Rows of probabilities in another order sum to 1 as before"
    path = a_run(out)
    file,kept = path/'predictions.npz',json.loads((path/'run.json').read_text())
    arrays = dict(np.load(file))
    for k in arrays:
        if k.startswith('report/probs/'): arrays[k] = arrays[k][::-1]
    np.savez_compressed(file, **arrays)
    sealed_again(path)
    record = json.loads((path/'run.json').read_text())
    if not has_seal: (path/'run.json').write_text(json.dumps({k: v for k,v in record.items() if k!='seal'}))
    for read in results_card,lambda o: summarise(Results(o)),lambda o: read_predictions(path):
        with pytest.raises(ValueError, match='has predictions that cannot be read. Delete this folder') as e: read(out)
        assert str(path) in str(e.value)
    assert_same(compared(out), Results(whole))
    assert report(out, None).card['scores']==report(whole, None).card['scores']
    # a record of an earlier version has no hash
    sealed_again(path)
    record = json.loads((path/'run.json').read_text())
    assert record['sha256']==kept['sha256']
    (path/'run.json').write_text(json.dumps({k: v for k,v in record.items() if k not in ('seal','sha256')}))
    assert whole_record(path) and len(read_predictions(path)['targs'])

@pytest.mark.parametrize('name', ['a\0b','\ud800','x'*5000,'..',''])
def test_runs_with_names_that_no_folder_has(out, whole, name):
    meta = json.loads((out/'meta.json').read_text())
    (out/'meta.json').write_text(json.dumps(meta|dict(runs=[*meta['runs'],meta['runs'][0],name])))
    with pytest.warns(UserWarning, match='1 of 5 finished runs cannot be read'): res = Results(out)
    assert_same(res, Results(whole))

@pytest.mark.parametrize('change', [
    dict(counts='x'), dict(counts=[1,2]), dict(counts=[-1]*10), dict(counts=['x']*10),
    dict(notes=[1]), dict(notes=[None]), dict(vocab=[1]*10), dict(vocab=['a']), dict(prevalence={}),
    dict(prevalence=[]), dict(prevalence=[1.]), dict(prevalence=[.1]*9+[10**400]), dict(prevalence=[float('nan')]*10)])
def test_common_facts_that_are_none_are_named(out, change):
    meta = json.loads((out/'meta.json').read_text())
    (out/'meta.json').write_text(json.dumps(meta|change))
    with pytest.raises(ValueError, match="meta.json' cannot be read. Start the same"): results_card(out)

def test_each_folder_has_its_own_titles(tmp_path):
    "Also where another folder is read, summarised or reported before the first is printed"
    titles = dict(a=dict(mine='First'), b=dict(mine='Second'), c={})
    methods = [('instance',1.5),('mine',1.6)]
    a,b,c = (Results(write_results(tmp_path/o, ['x','y','z'], methods, titles=t)) for o,t in titles.items())
    said,page = summarise(a, metrics='mcc'),report(a, None)
    shown = lambda: str(a),lambda: str(said),lambda: str(summarise(a, metrics='mcc')),lambda: str(page),page.html
    for read in lambda: Results(b.folder),lambda: summarise(b, metrics='mcc'),lambda: str(c):
        for text_of in shown:
            read()
            text = text_of()
            assert 'First' in text and 'Second' not in text and 'mine against' not in text
    assert 'mine (mine)' in str(c) and 'First' not in str(summarise(c))

def test_a_folder_may_be_summarised(out):
    for folder in out,str(out): assert str(summarise(folder))==str(summarise(Results(out)))
    for function in summarise,lambda o: paper_table(o, 3):
        with pytest.raises(ValueError, match='a folder of `compare`, or its results. Got DataFrame instead'):
            function(Results(out).df)
    with pytest.raises(ValueError, match='must be of hyper_kvasir'): paper_table(out, 3)

def test_one_broken_run_hides_no_other(out):
    want = Results(out)
    (a_run(out)/'run.json').write_text('{}')
    with pytest.warns(UserWarning, match='1 of 4 finished runs cannot be read.*balmix-compare --settings'):
        res = Results(out)
    assert res.df.run.nunique()==3
    pd.testing.assert_frame_equal(res.df, want.df[want.df.run.isin(res.df.run)].reset_index(drop=True))
    with pytest.warns(UserWarning): card = results_card(out)
    assert any('1 of 4 finished runs cannot be read and are left out: instance-small' in o for o in card['notes'])
    assert_same(compared(out), want)

def test_a_digit_that_a_disk_has_changed_is_no_figure(out, whole):
    "In a record the seal tells it, in predictions their check sums; the comparison trains these two runs anew"
    a,b = (a_run(out, o) for o in ('instance','class'))
    text = (a/'run.json').read_text()
    (a/'run.json').write_text(re.sub(r'("accuracy": 0\.)(\d)', lambda o: f'{o[1]}{(int(o[2])+1)%10}', text, count=1))
    assert (a/'run.json').read_text()!=text and read_record(a) is None
    data = bytearray((b/'predictions.npz').read_bytes())
    data[len(data)//2] ^= 1
    (b/'predictions.npz').write_bytes(data)
    res = compared(out)
    assert_same(res, Results(whole))
    assert report(out, None).card['scores']==report(whole, None).card['scores']

@pytest.mark.parametrize('how', ['semicolons','mark','rounded','empty','folder','gone','other rows'])
def test_a_table_that_a_spreadsheet_has_saved_is_not_in_the_way(out, whole, how):
    table = out/'results.csv'
    text = table.read_text()
    if how=='semicolons': table.write_text(text.replace(',',';').replace('.',','))
    if how=='mark': table.write_text('\ufeff'+text)
    if how=='rounded': table.write_text(re.sub(r'(\d\.\d\d)\d+', r'\1', text))
    if how=='empty': table.write_text('')
    if how=='other rows': table.write_text(text.replace('instance','class'))
    if how in ('folder','gone'): table.unlink()
    if how=='folder': table.mkdir()
    assert_same(Results(out), Results(whole))
    assert_same(compared(out), Results(whole))
    columns = pd.read_csv(table).columns
    assert table.is_file() and list(columns)==list(pd.read_csv(io.StringIO(text)).columns)

def test_the_time_in_the_record_decides_and_not_that_of_the_file(tmp_path):
    "Copying, unpacking and synchronising change the times of files"
    def first(t): "one"
    def second(t): "two"
    one,other = (Method('mine', f, 'x') for f in (first,second))
    out = tmp_path/'out'
    for o in one,other: compared(out, [o], folds=[1])
    newest = Results(out).df.run.unique().tolist()
    for p in out.glob('runs/*/run.json'): os.utime(p, (0,0) if p.parent.name in newest else None)
    copied = shutil.copytree(out, tmp_path/'copied', copy_function=shutil.copy)
    for folder in out,copied:
        res = compared(folder, ['class'], folds=[1])
        assert res.df[res.df.method=='mine'].run.unique().tolist()==newest

def test_one_closed_folder_stops_no_other_run(out, monkeypatch):
    "Root may open any folder, so that the error is that of the lock"
    closed = a_run(out)
    acquire = attempts.FileLock.acquire
    def denied(self, *args, **kwargs):
        if Path(self.lock_file).parent==closed: raise PermissionError(errno.EACCES, 'Permission denied')
        return acquire(self, *args, **kwargs)
    monkeypatch.setattr(attempts.FileLock, 'acquire', denied)
    (failed,) = compared(out).meta['failed']
    assert f"cannot be written to: Permission denied. Open it with: chmod -R u+rwX {closed}" in failed['error']
    monkeypatch.undo()
    assert compared(out).meta['failed']==[]

# ------------------------------------------------------------------ many runs

def quick(monkeypatch, whole):
    "Runs that are trained in no time, all with the figures of one"
    path = a_run(whole)
    like,predictions = read_record(path),(path/'predictions.npz').read_bytes()
    def train(run, on_epoch=None):
        (run.path/'predictions.npz').write_bytes(predictions)
        rows = [{**o, **run.names} for o in like['rows']]
        return dict(like, run=run.key, settings=run.settings, code=run.code, rows=rows)
    monkeypatch.setattr(attempts, 'train', train)

@pytest.mark.parametrize('n', [40,120])
def test_each_record_is_read_a_few_times_however_many_there_are(tmp_path, monkeypatch, whole, n):
    quick(monkeypatch, whole)
    opened,written = [],[]
    real = os.open
    def counting(path, *args, **kwargs):
        if str(path).endswith('run.json'): opened.append(path)
        return real(path, *args, **kwargs)
    write = Collected.write
    monkeypatch.setattr(os, 'open', counting)
    monkeypatch.setattr(Collected, 'write', lambda self: written.append(1) or write(self))
    res = compared(tmp_path/'out', ['instance'], folds=[1], seeds=n)
    assert res.df.run.nunique()==n
    assert n<=len(opened)<=2*n and len(written)<n/2

# ------------------------------------------------------------------ names

names = ['=cmd()','+1+2','@x','\tx','![x](http://a.b/c)','<img src=x>','$x$ and $y$','\x1b]0;t\x07',
         'a\u202eb','[a]: //b.c']

@pytest.mark.slow
def test_names_are_text_wherever_results_go(tmp_path, capsys):
    methods = [Method(o, find_method('instance').func, 'x') for o in names]
    out = tmp_path/'out'
    res = compared(out, ['instance',*methods], folds=[1])
    assert {*res.df.method}=={'instance',*names}=={*Results(out).df.method}
    raw = pd.read_csv(out/'results.csv', keep_default_na=False)
    assert not raw.method.str.match(r'[=+@\t]').any()
    summary = summarise(res)
    text = summary.to_markdown()
    assert not re.search(r'(?<!\\)\](\(|: )|<img|http://|\x1b|\u202e', text)
    for t in summary.tables(): assert '\n=' not in t.to_csv() and '\n"\t' not in t.to_csv()
    table = pd.read_csv(io.StringIO(summary.to_csv()))
    assert not table.method.str.match(r'[=+@\t]').any()
    print(summary, res, repr(report(res, tmp_path/'page.html')))
    said = capsys.readouterr().out
    assert not re.search('[\x00-\x08\x0b-\x1f\x7f\u202e]', said)
    shutil.rmtree(out/'runs')
    assert {*Results(out).df.method}=={'instance',*names}

@pytest.mark.parametrize('text', ['a;=1+1', "b\n=1+1;'@x", '-1;+2', "'=1", '\t=1', '-1.5', "'-1;2", ';;=', "c';'-d"])
def test_no_cell_is_a_formula_where_semicolons_divide_cells(text):
    "Spreadsheets in many languages divide cells at semicolons, and know no quotes inside a cell"
    written = cell_text(text)
    assert not any(re.match(r'[=+\-@]', o) for o in re.split(r'[;\t\n]', written)) or text=='-1.5'
    assert cell_value(written)==text

@pytest.mark.parametrize('text, want', [('~~~ a', r'\~\~\~ a'), ('$x$ and $y$', r'\$x\$ and \$y\$'), ('---', r'\---')])
def test_no_name_hides_the_text_that_follows(text, want): assert markdown_text(text)==want

@pytest.mark.slow
def test_a_folder_whose_name_is_no_utf_8(tmp_path, capsys):
    "A terminal would obey some of the names"
    place = Path(os.fsdecode(os.fsencode(tmp_path)+b'/d\xe9part\x1b[31m'))
    root = photographs(place, names=('café','=cmd()','\x1b[2J'))
    data = from_folder_table(root)
    assert data.verify(num_workers=0, progress=False).ok and data.verify(num_workers=0, progress=False).opened==0
    data = data.with_folds(2)
    out = tmp_path/'out'
    res = compared(out, data=data, size=8, bs=8, show=True)
    assert res.meta['vocab']==data.vocab and {*res.df.data}=={data.name}
    assert read_data(read_settings(out/'settings.yaml')['data']).fingerprint==data.fingerprint
    page = report(out, tmp_path/'page.html', data=root)
    assert all(o['image'] for net in page.card['networks'] for o in net['mistakes'])
    print(data, data.verify(num_workers=0, progress=False), res, summarise(res), page)
    said = capsys.readouterr().out
    assert '\x1b' not in said
    said.encode() # a terminal of UTF-8 takes it
    (root/os.fsdecode(b'caf\xe9')).mkdir()
    with pytest.raises(ValueError, match='needs names in UTF-8, but 1 in .* To rename them: convmv'):
        from_folder_table(root)

def test_dollars_are_text_in_figures(tmp_path):
    root = photographs(tmp_path/'im', names=('US$ 5$','$\\frac{','_x'))
    data = from_folder_table(root)
    ax = plot_class_distribution(data.with_folds(2).dataloaders(1, size=8, bs=4, num_workers=0))
    ax.figure.savefig(tmp_path/'a.png')
    plt.close('all')

# ------------------------------------------------------------------ the current folder

@pytest.mark.thinned(2)
@pytest.mark.parametrize('name', ['multiprocessing.py','pickle.py','torch.py','sitecustomize.py','matplotlibrc'])
def test_commands_obey_nothing_in_the_current_folder(tmp_path, name, monkeypatch):
    "Nor does a Python that a command starts, such as those of its jobs"
    bait = tmp_path/'bait'
    bait.mkdir()
    (bait/name).write_text('text.usetex: True' if name=='matplotlibrc' else f'open({str(tmp_path/"ran")!r}, "w")')
    monkeypatch.setenv('PYTHONPATH', str(Path(attempts.__file__).parents[2]))
    script = tmp_path/'bin'/'command.py' # as the scripts of an installation, it is not in the current folder
    script.parent.mkdir()
    script.write_text("""
from fastai_balmix.commands import command, quiet_import
@command('tried', [], {})
def tried():
    "Import a package, and start a process"
    with quiet_import(): import matplotlib
    import multiprocessing
    p = multiprocessing.get_context('spawn').Process(target=print)
    p.start()
    p.join()
    assert not p.exitcode and not matplotlib.rcParams['text.usetex']
if __name__=='__main__': tried()
""")
    done = subprocess.run([sys.executable,script], cwd=bait, capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert not (tmp_path/'ran').exists()

def test_an_import_leaves_the_current_folder_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONSAFEPATH', '')
    with quiet_import(): assert Path.cwd()!=tmp_path
    assert Path.cwd()==tmp_path

# ------------------------------------------------------------------ at random

def damaged(out, seed):
    "Damage a file or folder at random, and say how"
    rng = np.random.default_rng(seed)
    paths = sorted(o for o in out.rglob('*') if o.name not in ('lock',))
    path = paths[rng.integers(len(paths))]
    kinds = ['closed','link','empty','gone']
    if path.is_file(): kinds = ['cut','flip','empty','folder','link','pipe','closed']
    kind = kinds[rng.integers(len(kinds))]
    data = bytearray(path.read_bytes()) if path.is_file() else b''
    if kind=='cut': path.write_bytes(data[:rng.integers(len(data)+1)])
    elif kind=='flip':
        for i in rng.integers(len(data), size=rng.integers(1, 4)): data[i] ^= 1<<rng.integers(8)
        path.write_bytes(data)
    elif kind=='closed': path.chmod(0)
    elif kind=='empty' and path.is_file(): path.write_bytes(b'')
    else:
        aside = out.with_name(f'{out.name}-aside')
        path.rename(aside)
        if kind=='pipe': os.mkfifo(path)
        if kind=='link': path.symlink_to(aside)
        if kind in ('folder','empty'): path.mkdir()
    return f'{kind} {path.relative_to(out)}'

def after_damage(out, whole):
    "What is reported of a damaged folder, then the comparison again, and a report"
    want = results_card(whole)['scores']
    try: card = results_card(out)
    except (ValueError,OSError) as e: assert str(e)
    else: assert card['scores']==want or any('left out' in o for o in card['notes'])
    def times(res): return res.df.drop_duplicates('run').set_index('run').started.to_dict()
    begun = times(Results(whole))
    try: res = restored(out)
    except ValueError as e:
        # the folder of all runs is elsewhere: it is named, and nothing in it was touched
        assert 'is a link that leads out' in str(e), e
        return 0
    assert_same(res, Results(whole))
    assert results_card(out)['scores']==want
    return sum(begun[run]==at for run,at in times(res).items())/len(begun)

@pytest.mark.slow
def test_forty_random_damages(whole, tmp_path, warm_call):
    "Each ends, shows no wrong figure and trains at most what was damaged"
    for seed in range(40):
        out = shutil.copytree(whole, tmp_path/str(seed))
        how = damaged(out, seed)
        kept = warm_call(after_damage, out, whole)
        lost = len(json.loads((whole/'meta.json').read_text())['runs']) if how.endswith(' runs') else 1
        assert kept>=1-lost/4, (seed,how,kept)
