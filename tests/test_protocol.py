"""What the notebook cannot do to itself: processes are killed with SIGKILL, interrupted, doubled and starved of disk; a
method kills the process it runs in; folders are damaged, foreign and in the way. Whatever happened, the same call again
must end in the table of an unbroken run. The command is run as a shell runs it."""

import asyncio
import errno
import io
import json
import os
import pty
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import warm_call
from fastai.vision.all import Callback
from filelock import FileLock
from PIL import Image
from test_runs import grades, net, picture, pixels, recipe, split_of
from torch import nn
from toys import alive, until

from fastai_balmix.compare import attempts, methods, plan as planning, pool, progress, summary
from fastai_balmix.compare.cli import balmix_compare
from fastai_balmix.compare.config import TrainConfig
from fastai_balmix.compare.methods import Method, find_method
from fastai_balmix.compare.names import Description, described, method_title
from fastai_balmix.compare.plan import compare, plan_runs
from fastai_balmix.compare.pool import process_pool
from fastai_balmix.compare.progress import Board, Estimate
from fastai_balmix.compare.results import Results
from fastai_balmix.compare.runs import Run
from fastai_balmix.datasets.sources import digits, from_folder_table
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.files import DiskFull
from fastai_balmix.words import printed_time

fork = get_context('fork')
# What differs between two runs of the same thing; the revision, where somebody works in this checkout at the same time
circumstances = ['seconds','train_seconds','started','host','revision']
def table(folder):
    df = pd.read_csv(Path(folder)/'results.csv', dtype=str, keep_default_na=False)
    return df.drop(columns=circumstances)

def assert_same(a, b):
    "Are the tables of two folders one, and the predictions?"
    pd.testing.assert_frame_equal(table(a), table(b))
    for run in table(a).run.unique():
        x,y = (np.load(Path(o)/'runs'/run/'predictions.npz') for o in (a,b))
        assert x.files==y.files
        for k in x.files: np.testing.assert_array_equal(x[k], y[k])
        h,i = (Results(o).record(run) for o in (a,b))
        for k in 'history','best_epoch','calibration': assert json.dumps(h[k])==json.dumps(i[k])

two = ['instance','class']

@pytest.fixture
def out(tmp_path): return tmp_path/'out'

def compared(out, methods=('instance',), data=None, archs=net, **kwargs):
    if data is None: data = grades()
    return compare(data, methods, archs, out=out, **{**recipe, 'show':False, 'folds':[1], **kwargs})

def shell(*args):
    "What the command ends with: None, or the words after which a shell sees a 1"
    try: return balmix_compare(**vars(balmix_compare.parser.parse_args([*map(str, args)])))
    except SystemExit as e: return e.code

small = '--archs','small','--epochs',1,'--size',8,'--bs',8,'--augment','none','--pretrained','no'

@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "A folder of images of eight patients, two classes"
    root = tmp_path_factory.mktemp('data')/'scans'
    for c,n in ('benign',24),('malign, or not',12):
        (root/c).mkdir(parents=True)
        for i in range(n): Image.fromarray(pixels(f'{int(c!="benign")}/{i}')).save(root/c/f'p{i%8}_{i}.png')
    return root

def of_scans(scans): return '--data',scans,'--group',r'(p\d)_','--n-folds',2,*small

@pytest.fixture(scope='module')
def one(tmp_path_factory, scans):
    "A folder the command has finished, and what it printed"
    out,text = tmp_path_factory.mktemp('one')/'out',io.StringIO()
    with redirect_stdout(text): assert shell(*of_scans(scans), '--methods', 'instance,balmix_0.2', '--out', out) is None
    return out,text.getvalue()

def ages(out): return {p.parent.name: p.stat().st_mtime_ns for p in Path(out).glob('runs/*/run.json')}

# Killed

log = []

class Epochs(Callback):
    "Writes a line for each epoch that is trained"
    order = 90
    def __init__(self, name): self.nm = name
    def before_train(self):
        with open(log[0], 'a') as f: f.write(f'{self.nm} {self.epoch}\n')

def logged(t, name):
    find_method(name)(t)
    t.cbs.append(Epochs(name))

def with_log(names):
    "Methods that write a line an epoch; a version stands for `log`, which is no part of what they do"
    return [Method(o, partial(logged, name=o), 'x', ordered=find_method(o).ordered, version=1) for o in names]

def in_fork(*args, **kwargs):
    p = fork.Process(target=compared, args=args, kwargs=kwargs)
    p.start()
    return p

def finish(*args, **kwargs):
    p = in_fork(*args, **kwargs)
    p.join(200)
    assert p.exitcode==0

def checkpoints(out):
    "Times of the files of all runs that tell how far they are"
    res = {}
    for p in Path(out).glob('runs/*/*'):
        if not p.name.startswith(('checkpoint','run.json')): continue
        with suppress(FileNotFoundError): # a run that has just finished removes its checkpoint
            res[p.parent.name,p.name] = p.stat().st_mtime_ns
    return res

def killed_and_resumed(folder, n_kills, names, seed, epochs, **kwargs):
    "Number of kills there was time for, and of lines of epochs"
    rng,out = random.Random(seed),folder/'killed'
    kwargs |= dict(methods=with_log(names), epochs=epochs, augment=dict(flip='horizontal', shift=.1))
    log[:] = [folder/'whole.log']
    finish(folder/'whole', **kwargs)
    log[:] = [folder/'killed.log']
    done = 0
    for _ in range(n_kills):
        before = checkpoints(out)
        p = in_fork(out, **kwargs)
        while p.is_alive() and checkpoints(out)==before: time.sleep(.01) # until one epoch more is done
        time.sleep(rng.uniform(0, .3))
        os.kill(p.pid, signal.SIGKILL)
        p.join()
        done += p.exitcode==-signal.SIGKILL
        for o in out.glob('results.csv'): assert {*pd.read_csv(o).run} <= {*ages(out)}
    finish(out, **kwargs)
    return done,*((folder/o).read_text().count('\n') for o in ('whole.log','killed.log'))

def check_killed(folder, *args, **kwargs):
    n,whole,killed = warm_call(killed_and_resumed, folder, *args, **kwargs)
    assert n>=1 and whole<=killed<=whole+n # a kill costs one epoch at most
    assert_same(folder/'whole', folder/'killed')
    assert not [*folder.glob('killed/runs/*/checkpoint*')] and not [*folder.glob('killed/runs/*/*.part')]

@pytest.mark.slow
def test_two_kills_change_nothing(tmp_path): check_killed(tmp_path, 2, ['balmix_0.2','crt'], 1, 5)

def two_at_once(folder):
    log[:] = [folder/'log']
    ms = with_log(['instance','class','sqrt'])
    ps = [in_fork(folder/'out', ms, epochs=2) for _ in range(2)]
    for p in ps: p.join(200)
    log[:] = [folder/'alone.log']
    finish(folder/'alone', ms, epochs=2)
    lines = [sorted((folder/o).read_text().split()) for o in ('log','alone.log')]
    return [p.exitcode for p in ps],*lines

def test_two_processes_share_the_runs(tmp_path, out):
    codes,both,alone = warm_call(two_at_once, tmp_path)
    assert codes==[0,0] and both==alone
    assert_same(out, tmp_path/'alone')

# Processes that die

def kills_itself(t): os.kill(os.getpid(), signal.SIGKILL)

def kills_itself_once(t):
    if not Path(log[0]).exists():
        Path(log[0]).touch()
        kills_itself(t)

def forked_pools():
    "Others import fastai for seconds; they are among the slow tests"
    pool._context = lambda: fork

def with_a_killer(folder):
    forked_pools()
    log[:] = [folder/'once']
    ms = [Method('killer', kills_itself, 'x'),'instance',Method('once', kills_itself_once, 'x'),'class']
    res = compared(folder/'out', ms, jobs=2)
    failed = [(o['method'],o['error']) for o in res.meta['failed']]
    return res.df.method.unique().tolist(),failed,Results(folder/'out').df.run.nunique()

@pytest.mark.slow
def test_a_method_that_kills_its_process_takes_no_other_with_it(tmp_path, out):
    names,failed,n = warm_call(with_a_killer, tmp_path)
    assert names==['instance','once','class'] and n==3
    ((name,error),) = failed
    assert name=='killer' and error==f'its process died with exit code {-signal.SIGKILL}'
    compared(tmp_path/'alone', two)
    df = table(out)
    pd.testing.assert_frame_equal(df[df.method!='once'].reset_index(drop=True), table(tmp_path/'alone'))

def leaves(t): sys.exit('bye')
def cancelled(t): raise asyncio.CancelledError
class Wordless(Exception):
    def __str__(self): raise RuntimeError
    def __reduce__(self): raise TypeError('is not pickled')
def wordless(t): raise Wordless

class Bomb:
    "Ends the process that unpickles it"
    def __call__(self, t): pass
    def __reduce__(self): return sys.exit,('in an import',)

def with_odd_errors(folder, executor):
    forked_pools()
    odd = [('leaves',leaves), ('cancelled',cancelled), ('wordless',wordless), ('bomb',Bomb())]
    ms = [Method(name, func, 'x', version=1) for name,func in odd]
    if executor:
        with process_pool(2) as ex: res = compared(folder/'out', [*ms,'instance'], executor=ex)
    else: res = compared(folder/'out', [*ms,'instance'], jobs=2)
    return res.df.method.unique().tolist(),{o['method']: o['error'] for o in res.meta['failed']}

@pytest.mark.thinned(1)
@pytest.mark.parametrize('executor', [False,True])
def test_whatever_a_method_raises_in_a_process(tmp_path, executor):
    names,failed = warm_call(with_odd_errors, tmp_path, executor)
    end = '. It ends this run, not the process'
    assert names==['instance'] and failed=={
        'leaves':'SystemExit: bye'+end, 'cancelled':'CancelledError'+end,
        'wordless':'Wordless, whose text cannot be shown', 'bomb':'SystemExit: in an import'+end}

class Sleep(Callback):
    order = 90
    def before_train(self):
        if self.epoch==1:
            (Path(log[0])/str(os.getpid())).touch()
            time.sleep(60)

def sleepy(t):
    if not (Path(log[0])/'awake').exists(): t.cbs.append(Sleep())

def pids(folder): return [o.name for o in folder.iterdir() if o.name.isdigit()]

def parent_killed(folder):
    forked_pools()
    log[:] = [folder]
    what = dict(methods=[Method('sleepy', sleepy, 'x'),'instance'], folds=[1,2])
    p = in_fork(folder/'out', **what, jobs=2)
    assert until(lambda: len(pids(folder))==2)
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    ended = until(lambda: not any(map(alive, pids(folder))))
    (folder/'awake').touch()
    finish(folder/'out', **what)
    return ended,Results(folder/'out').df.run.nunique()

@pytest.mark.slow
def test_processes_of_a_pool_end_with_their_parent_and_free_their_runs(tmp_path):
    assert warm_call(parent_killed, tmp_path)==(True,4)

def interrupted_pool(folder):
    forked_pools()
    log[:] = [folder]
    methods.add_method('sleepy', sleepy, 'x')
    def interrupt():
        until(lambda: len(pids(folder))==2)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    said = shell('--preset', 'quick', '--methods', 'sleepy', '--jobs', 2, '--out', folder/'out')
    return said,until(lambda: not any(map(alive, pids(folder))))

def test_ctrl_c_does_not_wait_for_runs_in_work(tmp_path):
    said,ended = warm_call(interrupted_pool, tmp_path)
    assert said=='\nStopped. The same command resumes it.' and ended

class CtrlC(Callback):
    order = 90
    def __init__(self, flag): self.flag = flag
    def before_train(self):
        if self.epoch==1 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGINT)

@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_run(tmp_path, out, monkeypatch, scans, capsys):
    def method(t): t.cbs.append(CtrlC(tmp_path/'flag'))
    monkeypatch.setitem(methods._methods, 'stopped', Method('stopped', method, 'x'))
    monkeypatch.setitem(described, 'stopped', Description('x'))
    args = [*of_scans(scans), '--methods', 'instance,stopped', '--epochs', 2, '--folds', 1]
    assert 'Stopped. The same command resumes it.' in shell(*args, '--out', out)
    kept,(ck,) = ages(out),out.glob('runs/stopped*/checkpoint1.pth')
    assert len(kept)==1
    FileLock(ck.with_name('lock'), timeout=0).acquire().lock.release()
    assert shell(*args, '--out', out) is None and kept.items()<=ages(out).items()
    assert shell(*args, '--out', tmp_path/'whole') is None
    assert_same(out, tmp_path/'whole')

# Failing

def boom(t): raise RuntimeError('no such luck')
failing = Method('boom', boom, 'x')

def assert_told(said, *words):
    "Is a mistake told in one line, without a way to the traceback?"
    assert isinstance(said, str) and said.startswith('balmix-compare: ')
    assert '\n' not in said and '--debug' not in said
    for o in words: assert o in said

def test_a_failing_method_stops_no_other(tmp_path, out, monkeypatch, scans, capsys):
    def mended(t):
        if not (tmp_path/'mended').exists(): raise RuntimeError('no such luck,\n"really"')
    monkeypatch.setitem(methods._methods, 'boom', Method('boom', mended, 'x'))
    monkeypatch.setitem(described, 'boom', Description('x'))
    args = [*of_scans(scans), '--methods', 'boom,instance', '--out', out]
    said = shell(*args)
    text = capsys.readouterr().out
    for o in 'RuntimeError: no such luck, "really"','2 of the runs failed','tries them again': assert o in said
    assert '\n' not in said
    assert re.search(r'^Failed   boom, small, fold 1, seed 0: RuntimeError', text, re.M)
    assert (out/'summary.md').is_file()
    res = Results(out)
    assert {*res.df.method}=={'instance'} and res.df.fold.unique().tolist()==[1,2]
    assert sorted((o['method'],o['fold']) for o in res.meta['failed'])==[('boom',1),('boom',2)]
    kept = ages(out)
    (tmp_path/'mended').touch()
    assert shell(*args) is None and kept.items()<=ages(out).items()
    res = Results(out)
    assert {*res.df.method}=={'instance','boom'} and res.meta['failed']==[]

def test_nothing_but_failures(out):
    words = 'No run was finished. The first error: RuntimeError: no such luck. All are in'
    with pytest.raises(RuntimeError, match=words): compared(out, failing)
    with pytest.raises(ValueError, match='holds results.csv'): Results(out)

def test_figures_of_other_settings_never_stand_beside_these(out, monkeypatch):
    compared(out, selection='reported-fold')
    assert Results(out).meta['selection']=='reported-fold'
    old = table(out)
    disk_of(2, monkeypatch)
    with pytest.raises(DiskFull, match='settings.yaml'): compared(out)
    monkeypatch.undo()
    assert json.loads((out/'meta.json').read_text())['selection']=='inner' and not (out/'results.csv').exists()
    with pytest.raises(RuntimeError): compared(out, failing)
    assert not (out/'results.csv').exists()
    kept = ages(out)
    compared(out, selection='reported-fold')
    assert ages(out)==kept
    pd.testing.assert_frame_equal(table(out), old)

def test_figures_of_a_method_that_was_changed_and_fails_go(out):
    def works(t): pass
    compared(out, Method('boom', works, 'x'), epochs=1)
    with pytest.raises(RuntimeError, match='No run was finished'): compared(out, failing, epochs=1)
    assert not (out/'results.csv').exists() and len(ages(out))==1

def test_changed_methods_and_settings_are_not_mixed(out):
    def v1(t): "one"
    def v2(t): "two"
    one,other = (Method('mine', f, 'x') for f in (v1,v2))
    def runs_of(): return table(out).groupby('method').run.unique().map(list).to_dict()
    compared(out, ['instance',one])
    first,kept = runs_of(),ages(out)
    compared(out, [other])
    second = runs_of()
    assert second['instance']==first['instance'] and len(second['mine'])==1 and second['mine']!=first['mine']
    compared(out, ['class']) # added later, to what is finished
    assert runs_of()=={**second, 'class':runs_of()['class']} and kept.items()<=ages(out).items()
    compared(out, [other], epochs=1)
    assert [*runs_of()]==['mine'] and {*table(out).epochs}=={'1'}
    n = len(ages(out))
    compared(out, [one,'instance'])
    assert len(ages(out))==n and runs_of()['mine']==first['mine']
    def namesake(n_classes): return nn.Sequential(nn.Flatten(), nn.Linear(192, n_classes))
    namesake.__name__ = 'net'
    compared(out, ['instance'], archs=namesake)
    assert not {*table(out).run} & {*first['instance']}

# A full disk, folders in the way

def disk_of(n, monkeypatch):
    "From the `n`-th file on nothing reaches the disk"
    left = [n]
    def fsync(fd):
        if not stat.S_ISREG(os.fstat(fd).st_mode): return
        left[0] -= 1
        if left[0]<=0: raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', fsync)

def test_a_full_disk_at_every_write(tmp_path, out, monkeypatch):
    kept,said = {},[]
    for n in (o//2 for o in range(2, 100)): # each twice, since a second attempt starts from what the first has written
        disk_of(n, monkeypatch)
        try: compared(out, two)
        except DiskFull as e: said.append(str(e))
        else: break
        now = ages(out)
        assert kept.items()<=now.items()
        kept = now
        assert not [*out.rglob('*.part')]
        if (out/'results.csv').exists(): assert {*table(out).run}<={*now}
    (out/'results.csv').unlink() # the only file that no attempt has begun with
    disk_of(4, monkeypatch)
    with pytest.raises(DiskFull) as e: compared(out, two)
    said.append(str(e.value))
    monkeypatch.undo()
    assert compared(out, two) and ages(out)==now
    again = 'Free at least twice as much on the disk of .* and start again: what is finished is kept'
    found = [re.search(rf'No room left for (\S+) \(\d+\.\d MB\). {again}$', o) for o in said]
    assert {o[1] for o in found}=={
        'meta.json','settings.yaml','checkpoint1.pth','predictions.npz','run.json','results.csv'}
    compared(tmp_path/'whole', two)
    assert_same(out, tmp_path/'whole')

@pytest.mark.parametrize('where', ['mkdir','lock'])
def test_a_full_disk_elsewhere(out, monkeypatch, where):
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')
    compared(out)
    kept = ages(out)
    owner,name = dict(mkdir=(Path,'mkdir'), lock=(attempts.FileLock,'acquire'))[where]
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(DiskFull, match='No room left for .*Free at least'): compared(out, two)
    monkeypatch.undo()
    assert ages(out)==kept
    assert compared(out, two).df.run.nunique()==2

def test_the_command_on_a_full_disk(out, monkeypatch, scans, capsys):
    disk_of(9, monkeypatch)
    assert_told(shell(*of_scans(scans), '--out', out), 'Free at least twice as much')

def put(folder, names, text):
    for o in names: (folder/o).mkdir() if o=='runs' else (folder/o).write_text(text)

@pytest.mark.parametrize('there', [[],['runs'],['meta.json.12.part']])
def test_a_folder_that_was_begun_is_gone_on_with(tmp_path, there):
    put(tmp_path, there, '{"d')
    assert len(compared(tmp_path, epochs=1).df)

@pytest.mark.parametrize('there', [['results.csv'],['holiday.jpg','runs'],['results.csv','runs'],['runs.txt']])
def test_a_folder_of_somebody_elses_is_left_alone(tmp_path, there):
    put(tmp_path, there, 'mine')
    with pytest.raises(ValueError, match='exists and does not hold a comparison. It is left'): compared(tmp_path)
    assert sorted(o.name for o in tmp_path.iterdir())==sorted(there)
    assert all((tmp_path/o).read_text()=='mine' for o in there if o!='runs')

def test_places_that_cannot_be_written_to(tmp_path):
    # Root may write to any folder, but not into a file
    (tmp_path/'file').write_text('mine')
    with pytest.raises(ValueError, match='exists and does not hold'): compared(tmp_path/'file')
    with pytest.raises(ValueError, match='cannot be written to: Not a directory'): compared(tmp_path/'file'/'out')
    assert (tmp_path/'file').read_text()=='mine'

def test_no_permission(out, monkeypatch):
    def denied(*args, **kwargs): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(planning, 'write_file', denied)
    with pytest.raises(ValueError, match="out' cannot be written to: Permission denied"): compared(out)

@pytest.mark.parametrize('change, words', [
    (dict(version='0.0.0'), 'another version of fastai_balmix: 0.0.0'),
    (dict(data='eyes'), 'another data set: eyes, now grades'),
    (dict(fingerprint='0'*32), 'another content of the data set')])
def test_folders_of_another_version_or_data_set(out, change, words):
    compared(out, epochs=1)
    p = out/'meta.json'
    was = {o: o.read_bytes() for o in out.rglob('*') if o.is_file()}
    meta = json.loads(p.read_text())
    p.write_text(json.dumps({**meta, **change}))
    with pytest.raises(ValueError, match=words): compared(out, epochs=1)
    assert all(o.read_bytes()==b for o,b in was.items() if o!=p)

def test_finished_runs_of_other_settings_are_told_of_and_kept(out):
    first,kept = compared(out, epochs=1),ages(out)
    told = (f"'{out}' holds finished runs with other settings ({len(kept)}). They are kept, but the tables and the "
            'page will be of the new runs. To have both, choose another folder.')
    with pytest.warns(UserWarning, match=f'^{re.escape(told)}$'): compared(out, epochs=2)
    both = ages(out)
    with pytest.warns(UserWarning, match=re.escape(f'other settings ({len(both)})')): again = compared(out, epochs=1)
    assert again.df.equals(first.df) and kept.items()<=both.items() and ages(out)==both
    with warnings.catch_warnings(action='error', category=UserWarning): compared(out, epochs=1)

def test_other_images_of_the_same_name_are_another_data_set(out):
    compared(out, epochs=1)
    data = grades(change=[(0,'label','g1')])
    with pytest.raises(ValueError, match='another content'): compared(out, data=data, epochs=1)

def test_images_that_were_written_again_are_another_data_set(tmp_path):
    def write(grey):
        for i in range(60):
            path = tmp_path/'data'/'ab'[i%2]/f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('L', (8,8), grey+i).save(path)
    write(0)
    data = from_folder_table(tmp_path/'data').with_folds(2)
    compared(tmp_path/'out', data=data, epochs=1)
    write(100)
    with pytest.raises(ValueError, match='another content'): compared(tmp_path/'out', data=data, epochs=1)

@pytest.mark.thinned(5)
@pytest.mark.parametrize('name', [
    'meta.json','results.csv','settings.yaml','runs/*/error.json','runs/*/checkpoint1.pth'])
@pytest.mark.parametrize('content', [b'', b'{"run', b'[]'])
def test_damaged_files_are_written_anew(tmp_path, out, half_done, name, content):
    shutil.copytree(half_done, out)
    for p in out.glob(name): p.write_bytes(content)
    kept = ages(out)
    (tmp_path/'awake').touch()
    log[:] = [tmp_path]
    res = compared(out, with_failure)
    assert kept.items()<=ages(out).items() and res.df.run.nunique()==2 and res.meta['failed']==[]
    pd.testing.assert_frame_equal(table(out), table(half_done.parent/'whole'))

class Fails(Callback):
    order = 90
    def before_train(self):
        if self.epoch==1 and not (Path(log[0])/'awake').exists(): raise RuntimeError('in epoch 1')

def fails_in_epoch_1(t): t.cbs.append(Fails())
with_failure = ['instance',Method('boom', fails_in_epoch_1, 'x', version=1)]

@pytest.fixture(scope='module')
def half_done(tmp_path_factory):
    "A folder with a finished run, and one that failed after its first epoch"
    folder = tmp_path_factory.mktemp('half')
    log[:] = [folder]
    assert len(compared(folder/'out', with_failure).meta['failed'])==1
    for o in 'checkpoint1.pth','error.json': assert [*folder.glob(f'out/runs/*/{o}')]
    (folder/'awake').touch()
    compared(folder/'whole', with_failure)
    return folder/'out'

@pytest.mark.parametrize('name', ['../../up','/etc/passwd','..','a\nb'])
def test_odd_names_stay_in_the_folder(tmp_path, name):
    def arch(n_classes): return net(n_classes)
    arch.__name__ = name
    out = tmp_path/'a'/'out'
    res = compared(out, Method(name, find_method('instance').func, 'x'), archs=arch, epochs=1)
    assert [*tmp_path.iterdir()]==[out.parent] and [*out.parent.iterdir()]==[out]
    assert len([*(out/'runs').iterdir()])==1
    assert {*res.df.method}=={name}=={*res.df.arch}

# Executors

def test_a_thread(tmp_path):
    with ThreadPoolExecutor(1) as ex: compared(tmp_path/'a', two, executor=ex)
    compared(tmp_path/'b', two)
    assert_same(tmp_path/'a', tmp_path/'b')

def in_a_pool(folder):
    forked_pools()
    with process_pool(2) as ex: compared(folder/'a', two, executor=ex)
    compared(folder/'b', two, jobs=2)
    compared(folder/'c', two)

def test_a_pool_of_processes(tmp_path):
    warm_call(in_a_pool, tmp_path)
    for o in 'ab': assert_same(tmp_path/o, tmp_path/'c')

class Odd(Executor):
    "Runs jobs at once, but for those whose number has something else in store"
    def __init__(self, **faults):
        self.faults = {int(k[1:]): v for k,v in faults.items()}
        self.futures = []
    def submit(self, f, *args):
        res,fault = Future(),self.faults.get(len(self.futures))
        self.futures.append(res)
        if fault is None: res.set_result(f(*args))
        elif fault!='never': res.set_exception(fault)
        return res

def test_an_executor_that_loses_a_job(out):
    lost = Odd(n1=RuntimeError('node 7 is gone'))
    res = compared(out, [*two,'sqrt'], executor=lost)
    assert {*res.df.method}=={'instance','sqrt'}
    assert [(o['method'],o['error']) for o in res.meta['failed']]==[('class','RuntimeError: node 7 is gone')]

@pytest.mark.parametrize('error', [BrokenExecutor('all nodes are gone'), DiskFull(errno.ENOSPC, 'No room left for x')])
def test_an_executor_that_ends(out, error):
    ex = Odd(n1=error, n2='never')
    with pytest.raises(type(error)): compared(out, [*two,'sqrt'], executor=ex)
    assert {*table(out).method}=={'instance'} and ex.futures[2].cancelled()
    assert compared(out, [*two,'sqrt']).df.run.nunique()==3

def test_ctrl_c_cancels_what_an_executor_has_not_begun(out, monkeypatch):
    def stop(seconds): raise KeyboardInterrupt
    monkeypatch.setattr(pool.time, 'sleep', stop)
    ex = Odd(n0='never', n1='never')
    with pytest.raises(KeyboardInterrupt): compared(out, two, executor=ex)
    assert all(f.cancelled() for f in ex.futures)

@pytest.mark.thinned(1)
@pytest.mark.parametrize('executor', [None, 'threads'])
def test_a_run_in_work_elsewhere_is_waited_for(out, executor):
    (run,) = plan_runs(grades(), 'instance', net, [1], 1, TrainConfig(**recipe), out)
    run.path.mkdir(parents=True)
    lock = FileLock(run.path/'lock', thread_local=False)
    lock.acquire()
    threading.Timer(2, lock.release).start()
    with ThreadPoolExecutor(1) as ex: res = compared(out, two, executor=ex if executor else None)
    assert res.df.run.nunique()==2

# What is shown

def test_the_estimate_learns():
    shown = grades()
    def run(method, arch='a'): return Run(shown, method, arch, 1, 0, TrainConfig(**recipe), '/nowhere')
    e = Estimate()
    assert e.seconds(run('class')) is None and e.left([run('class')]) is None and e.left([])==0
    e.add(run('instance', 'b'), 40)
    assert e.seconds(run('class'))==40 # what is known
    e.add(run('instance'), 10)
    assert e.seconds(run('class'))==10 and e.seconds(run('class', 'c'))==25 # of this network; of all
    e.add(run('class'), 20)
    e.add(run('class'), 30)
    assert e.seconds(run('class'))==25 and e.seconds(run('instance'))==10 and e.seconds(run('sqrt'))==20
    assert e.left([run('class'),run('instance')])==35 and e.left([run('class'),run('instance')], 2)==25 # the longer

@pytest.mark.parametrize('s, words', [
    (0,'1 s'), (89.4,'89 s'), (90,'2 min'), (5399,'90 min'), (5400,'1.5 h'), (36000,'10.0 h')])
def test_times_in_words(s, words): assert printed_time(s)==words

three = 'instance',failing,'class'

def test_a_few_plain_lines_without_a_terminal(tmp_path, out, capsys):
    compared(out, three, show=True)
    lines = capsys.readouterr().out.splitlines()
    patterns = [
        'Plan     3 methods = 3 runs$', 'One run each shows nothing about methods: train two seeds or more.$',
        r'Training 1/3  \d+ s  \d+ s left$',
        'Failed   boom, net, fold 1, seed 0: RuntimeError: no such luck$', r'Training 2/3  \d+ s  \d+ s left$',
        r'Training 3/3  \d+ s$']
    for pattern,line in zip(patterns, lines, strict=True): assert re.match(pattern, line.strip()), line
    compared(out, ['instance'], show=True) # is done
    assert capsys.readouterr().out.splitlines()==['Plan     1 run',f"{'':9}1 of 1 runs were done."]
    compared(tmp_path/'new', ['instance'], show=False)
    assert capsys.readouterr().out==''

def test_many_runs_have_ten_lines(capsys):
    about = dict(names={}, method=failing, arch=net, fold=1, seed=0, monitor='mcc')
    runs = [SimpleNamespace(key=i, **about) for i in range(200)]
    board = Board(runs, [None]*200, 1, True)
    board.start()
    record = dict(seconds=9., rows=[dict(part='report', point='as trained', mcc=.5)])
    for run in runs: board.done(run, SimpleNamespace(status='finished', new=True, record=record))
    board.end()
    assert 9<len(capsys.readouterr().out.splitlines())<=12

def test_a_bar_on_a_terminal(out):
    ours,theirs = pty.openpty()
    seen = []
    def read():
        try:
            while b := os.read(ours, 1000): seen.append(b)
        except OSError: pass # nobody writes any more
    t = threading.Thread(target=read)
    t.start()
    with os.fdopen(theirs, 'w') as tty, redirect_stdout(tty): compared(out, three, show=True)
    t.join(10)
    os.close(ours)
    text = b''.join(seen).decode()
    plain = re.sub(r'\x1b\[[?\d;]*[A-Za-z]', '', text)
    drawn = [o for o in re.split('[\r\n]+', plain) if o.strip()]
    assert max(map(len, drawn))<=80 and '━' in plain
    assert re.search(r'0/3  \d+ s$', drawn[3]) and re.search(r'0/3  \d+ s  \d+ s left', plain) # after an epoch
    assert any(o.startswith('Failed   boom, net, fold 1, seed 0: RuntimeError') for o in drawn)
    assert re.match(r'Training ━+ 3/3  \d+ s$', drawn[-1])
    assert text.rindex('\x1b[?25h')>text.rindex('\x1b[?25l') # a cursor is left

def test_a_table_in_jupyter(out, monkeypatch):
    import fastprogress.fastprogress
    import IPython.display
    shown = []
    class Shown:
        def __init__(self, o): self.update(o)
        def update(self, o): shown.append(o)
    monkeypatch.setattr(IPython.display, 'display', lambda o, display_id=None: Shown(o))
    monkeypatch.setattr(progress, 'IN_NOTEBOOK', True)
    monkeypatch.setattr(progress, 'progress_bar', fastprogress.fastprogress.NBProgressBar)
    compared(out, three, show=True)
    tables = [o for o in shown if isinstance(o, pd.DataFrame)]
    assert [len(o) for o in tables]==[1,2,3]
    assert tables[-1].method.tolist()==['Plain sampling','boom','Class-balanced sampling']
    assert tables[-1].failed.tolist()==['','RuntimeError: no such luck','']
    text = ' '.join(str(o) for o in shown if not isinstance(o, pd.DataFrame))
    assert '1/3' in text and 'epoch 2' in text

# Settings

def test_one_file_holds_every_setting_and_starts_the_same_again(one, tmp_path, capsys):
    settings = one[0]/'settings.yaml'
    s = yaml.safe_load(settings.read_text())
    assert {*s}=={'data','external','methods','archs','folds','seeds','n_folds','training'}
    assert {*s['training']}=={*TrainConfig.__dataclass_fields__}
    assert shell('--settings', settings, '--out', tmp_path/'again') is None
    assert_same(one[0], tmp_path/'again')
    assert yaml.safe_load((tmp_path/'again'/'settings.yaml').read_text())==s
    changes = '--epochs',2,'--methods','instance','--folds',2
    assert shell('--settings', settings, '--out', tmp_path/'more', *changes) is None
    df = Results(tmp_path/'more').df
    assert {*df.epochs}=={2} and {*df.method}=={'instance'} and {*df.fold}=={2}

def test_settings_of_data_given_in_python_say_how_to_go_on(tmp_path):
    read,more = dict(reader='digits', n_folds=2, n_max=40),digits(2, n_max=30)
    plain = ImageData(more.df, more.vocab, images=more.images)
    of_digits = dict(data=read, archs='small', size=8)
    for option,what in (
        ('--data DATA', {}),
        (None, dict(external=dict(more=more.subset([*range(40)])), **of_digits)),
        ('--external more=DATA', dict(external=dict(more=plain), **of_digits))):
        settings = tmp_path/str(option)/'settings.yaml'
        compared(settings.parent, **what)
        text = settings.read_text()
        said = shell('--settings', settings, '--out', tmp_path/f'again {option}')
        if option is None:
            assert 'Start it again with: balmix-compare --settings' in text and said is None
        else:
            assert 'Start it again' not in text
            given_in_python = 'These settings are of data given in Python: call compare(data, ...) there'
            assert said==f'balmix-compare: {given_in_python}, or add {option}'

def test_everything_set_survives_the_file(tmp_path):
    training = dict(
        epochs=1, size=9, bs=np.int64(7), lr=1e-5, mom=np.float64(.5), wd=.01, augment=dict(scale=(.9,1.1), shift=.1),
        normalise='imagenet', pretrained=False, select=.3, selection='inner', monitor='macro_f1', tta=False,
        decode='fast', opt_func='adamw', schedule='flat_cos', freeze_epochs=0)
    data,more = (dict(reader='digits', n_folds=2, n_max=n) for n in (40,30))
    res = compare(
        data, ['class'], 'small', folds=np.array([2]), seeds=[5], out=tmp_path/'a', show=False,
        external=dict(more=more), **training)
    assert shell('--settings', tmp_path/'a'/'settings.yaml', '--out', tmp_path/'b') is None
    assert_same(tmp_path/'a', tmp_path/'b')
    assert {*res.df.part}=={'select','report','more'} and {*res.df.seed}=={5} and {*res.df.fold}=={2}

def test_a_recipe_is_chosen_for_each_network_and_told(tmp_path, capsys):
    data = dict(reader='digits', n_folds=2, n_max=30)
    def run(folder, archs, **kwargs):
        return compare(data, 'instance', archs, [1], epochs=1, size=9, augment='none', out=tmp_path/folder, **kwargs)
    res = run('both', ['small',net])
    said = capsys.readouterr().out
    said = ' '.join(said.split())
    small = "since the network starts without weights, batches of 8, learning rate 0.1, momentum 0.9,"
    paper = 'since nothing is known of the weights of a function, batches of 8, learning rate 0.01, momentum 0,'
    assert f"Recipe small: the recipe 'small', {small}" in said and f"net: the recipe 'paper', {paper}" in said
    used = {o.arch: res.record(o.run)['training'] for o in res.df.drop_duplicates('run').itertuples()}
    assert (used['small']['recipe'],used['small']['lr'])==('small',.1)
    assert (used['net']['recipe'],used['net']['lr'])==('paper',.01)
    written = yaml.safe_load((tmp_path/'both'/'settings.yaml').read_text())['training']
    assert written['recipe']=='auto' and written['lr'] is None
    # One network after the other are the same comparison
    for o in 'small',net: res = run('apart', o, show=False)
    assert {*res.df.arch}=={'small','net'}
    run('one', 'small', recipe='paper')
    assert 'Recipe' not in capsys.readouterr().out
    written = yaml.safe_load((tmp_path/'one'/'settings.yaml').read_text())['training']
    assert (written['recipe'],written['lr'],written['augment'])==('paper',.01,'none')

@pytest.mark.parametrize('text', [
    '!!python/object/apply:os.system ["touch HARM"]',
    'data: !!python/object/new:os.system ["touch HARM"]',
    'training: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ["HARM"]]',
    '? !!python/object/apply:os.system ["touch HARM"]\n: 1'])
def test_a_hostile_file_does_nothing(tmp_path, out, text):
    p = tmp_path/'settings.yaml'
    p.write_text(text.replace('HARM', str(tmp_path/'harm')))
    assert_told(shell('--settings', p, '--out', out), 'is not a YAML file')
    assert [*tmp_path.iterdir()]==[p]

def of_digits(text): return f'{{data: {{reader: digits}}, {text}}}'

@pytest.mark.parametrize('text, words', [
    ('', "must hold names and values of settings. Got NoneType instead."),
    ('- 1', 'Got list'),
    ('datas: 1', "There is no setting 'datas'. Did you mean 'data'?"),
    ('data: [', 'is not a YAML file'),
    ('data: "\xe9"'.encode('latin-1'), 'balmix-compare: '),
    ('data: digits', 'Say which data'),
    ('data: {root: x}', "'reader'"),
    ('data: {reader: digit}', "There is no reader 'digit'. Did you mean 'digits'"),
    ('data: {reader: digits, n_fold: 2}', "no argument 'n_fold'. Did you mean 'n_folds'"),
    ('data: {reader: digits, then: [{step: cut}]}', 'with_folds'),
    (of_digits('training: {epoch: 3}'), "There is no setting 'epoch'. Did you mean 'epochs'"),
    (of_digits('epochs: 3, training: {epochs: 4}'), "There is no setting 'epochs'"),
    (of_digits('training: [1]'), 'training'),
    (of_digits('training: {lr: 1e-3}'), "Got '1e-3'"),
    (of_digits('external: [a]'), 'external'),
    (of_digits('external: {a: b}'), 'external'),
    (of_digits('seeds: x'), 'seeds'),
    (of_digits('methods: 5'), 'no method 5'),
    (of_digits('folds: {a: 1}'), 'folds'),
    (of_digits('archs: [5]'), 'archs')])
def test_a_file_with_mistakes(tmp_path, out, text, words):
    p = tmp_path/'settings.yaml'
    p.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_told(shell('--settings', p, '--out', out), words)
    assert not out.exists()

# Mistakes on the command line

@pytest.mark.parametrize('option, value, words', [
    ('methods', 'balmix_02', "There is no method 'balmix_02'. Did you mean 'balmix_0.2'"),
    ('methods', '', 'methods'),
    ('methods', 'instance,instance', "'instance' more than once"),
    ('methods', 'qwk_loss', 'order'),
    ('archs', 'mobilnetv2_100', "Did you mean 'mobilenetv2_100'"),
    ('archs', 'resnet18.a1_in2k', 'There are no weights'),
    ('folds', '7', 'folds of the data, [1, 2]. Got 7'),
    ('folds', 'one', 'no list of whole numbers'),
    ('folds', '', 'folds'),
    ('monitor', 'quad_kappa', 'monitor'),
    ('monitor', 'mc', 'monitor'),
    ('seeds', '0', 'seeds'),
    ('seeds', '-1', 'seeds'),
    ('bs', '100', 'at most 14, the training images of fold 1'),
    ('epochs', '0', 'The --epochs option must be'),
    ('n-folds', '9', 'at most 8, the number of groups'),
    ('augment', 'papr', 'augment'),
    ('pretrained', 'nothing.pth', 'pretrained'),
    ('selection', 'inn', 'selection'),
    ('decode', 'quick', "'full' or 'fast'. Got 'quick'"),
    ('jobs', '0', 'jobs'),
    ('jobs', 'many', "The --jobs option must be an int in the range [1, inf) or 'auto'. Got 'many'"),
    ('num-workers', '-1', 'The --num-workers option must be an int'),
    ('group', '(x', 'group'),
    ('group', r'q(\d)', 'finds the patient'),
    ('vocab', 'a,b', 'vocab'),
    ('settings', 'nowhere.yaml', 'no settings file'),
    ('external', 'nowhere', "no folder, CSV file or reader 'nowhere'"),
    ('external', 'select=digits', "other than 'report' and 'select'"),
    ('external', 'd=digits', "data with the classes ['benign', 'malign, or not']"),
    ('preset', 'quik', "There is no preset 'quik'. Did you mean 'quick'"),
    ('preset', 'quick --settings x', 'not both'),
    ('data', 'nowhere', "no folder, CSV file or reader 'nowhere'"),
    ('data', 'eyepac:x', "Did you mean 'eyepacs'"),
    ('data', 'eyepacs:x', 'The --group option is for folders and tables of your own')])
def test_mistakes_end_in_one_line_before_anything_is_trained(tmp_path, out, scans, monkeypatch, option, value, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pool, 'attempt', None)
    said = shell(*of_scans(scans), '--out', out, f'--{option}', *value.split(' '))
    assert_told(said, words)
    assert 'parameter of compare' not in said and 'TrainConfig' not in said and not out.exists()

@pytest.mark.parametrize('data, words', [
    ('eyepacs:nowhere','an existing folder'), ('medmnist:nowhere','nowhere'), ('eyepacs','--data eyepacs:PLACE'),
    ('digits:x','Leave :x out')])
def test_readers_that_do_not_find_their_data(out, data, words):
    assert_told(shell('--data', data, '--out', out), words)

def test_no_data_and_no_folder(out, scans):
    assert shell('--data', scans)=='balmix-compare: Say where results go: --out FOLDER.'
    assert 'Say which data to compare on' in shell('--out', out)

@pytest.mark.parametrize('kwargs, words', [
    (dict(executor=5), 'executor'),
    (dict(external=dict(a=5)), 'external'),
    (dict(external={'a/b':grades()}), "without '/'"),
    (dict(external={'':grades()}), 'external'),
    (dict(data=5), '`ImageData`'),
    (dict(data='digits'), '`ImageData`'),
    (dict(data=grades(part=split_of)), 'left out, since the data have a split of their own'),
    (dict(data=grades(part=split_of), folds=None, selection='reported-fold'), 'official test'),
    (dict(seeds=[-1]), 'seeds'),
    (dict(seeds=[0,0]), '0 more than once'),
    (dict(folds=[1,1]), 'more than once'),
    (dict(folds=3), 'folds'),
    (dict(folds=['1']), 'folds'),
    (dict(archs=[net,lambda n: 0,lambda n: 1]), "'<lambda>' more than once"),
    (dict(archs=[partial(net),partial(net)]), 'more than once'),
    (dict(archs=[]), 'archs'),
    (dict(data=grades((40,)), folds=None), "at least two classes, but all of grades are of 'g0'"),
    (dict(learning_rate=1), "no setting 'learning_rate'"),
    (dict(jobs=1.5), 'jobs'),
    (dict(jobs='all'), "'auto'")])
def test_mistakes_in_python(out, kwargs, words):
    with pytest.raises(ValueError, match=re.escape(words)): compared(out, **kwargs)
    assert not out.exists()

@pytest.mark.parametrize('counts, words', [
    ((30,1), "g1 has 1 image; 2 folds need 2. Leave it out"), ((30,0), 'at least two classes'),
    ((20,10,0), 'every class'),
    ((12,8), 'at most 8, the training images of fold 1'),
    ((3,2), 'leaves images to choose on')])
def test_small_data_have_their_say(out, counts, words):
    given = grades(counts, n_folds=99)
    data = ImageData(given.df.drop(columns='fold'), given.vocab, images=picture)
    with pytest.raises(ValueError, match=words): compared(out, data=data, folds=None, n_folds=2)

def test_a_class_that_is_in_one_fold_alone(out):
    df = grades((20,20,4)).df
    df.loc[df.label=='g2', 'fold'] = 1
    data = ImageData(df, ['g0','g1','g2'], images=picture)
    words = "training images of every class. Got 'g2' without one when fold 1 is reported"
    with pytest.raises(ValueError, match=words): compared(out, data=data)

def test_missing_images_are_missed_before_training(tmp_path, out, scans, monkeypatch):
    monkeypatch.setattr(pool, 'attempt', None)
    shutil.copytree(scans, tmp_path/'a')
    good,bad = from_folder_table(scans).with_folds(2),from_folder_table(tmp_path/'a').with_folds(2)
    (tmp_path/'a'/bad.df.path[3]).unlink()
    for kwargs in dict(data=bad),dict(data=good, external=dict(e=bad)):
        with pytest.raises(ValueError, match=f'1 missing in a, such as {bad.df.path[3]}'):
            compared(out, **kwargs)

def test_a_traceback_only_when_asked_for(out, scans, monkeypatch):
    def broken(*args, **kwargs): raise LookupError('what is that')
    monkeypatch.setattr(summary, 'summarise', broken)
    args = [*of_scans(scans), '--out', out, '--folds', 1]
    assert shell(*args)=='balmix-compare: LookupError: what is that (--debug shows where)'
    with pytest.raises(LookupError): shell(*args, '--debug')

# The command

def test_the_command_on_a_folder_of_images(one):
    out,text = one
    res = Results(out)
    assert res.meta['vocab']==['benign','malign, or not'] and res.meta['grouped']
    assert res.meta['n_folds']==2 and res.meta['data']=='scans'
    assert len(res.df)==2*2*2*3 and {*res.df.fold}=={1,2}
    groups = [{*res.predictions(r)['groups']} for r in res.df.run[res.df.method=='instance'].unique()]
    assert groups[0]|groups[1]=={f'p{i}' for i in range(8)} and not groups[0]&groups[1]
    md = (out/'summary.md').read_text()
    assert md.strip() and '| method |' in md and '|' not in text and f"Tables   {out/'summary.md'}" in text
    assert text.startswith('Reading  scans: 36 images of 8 groups, 2 classes, 2 : 1')
    assert '\nPlan     2 methods × 2 folds = 4 runs\n' in text and '\nTraining 4/4  ' in text
    assert f"Page     {out/'report.html'}" in text and (out/'report.html').is_file()
    assert '\x1b' not in text and re.search('^Plain sampling .* of ', text, re.M)

def test_a_table_external_data_and_the_published_protocol(out, scans, capsys):
    rows = [dict(path=str(p.relative_to(scans)), label=p.parent.name) for p in sorted(scans.rglob('*.png'))]
    pd.DataFrame(rows).to_csv(scans/'table.csv', index=False)
    of_table = '--data',scans/'table.csv','--n-folds',2,'--folds',1,*small,'--methods','instance'
    more = '--selection','reported-fold','--external',f'{scans},twice={scans}','--keep-weights'
    assert shell(*of_table, *more, '--out', out) is None
    res,text = Results(out),capsys.readouterr().out
    assert {*res.df.part}=={'select','report','scans','twice'}
    assert len(res.predictions(res.df.run[0], 'scans')['targs'])==36
    assert res.meta['selection']=='reported-fold' and not res.meta['grouped']
    assert [*out.glob('runs/*/weights.pth')]
    for o in text,(out/'summary.md').read_text(): assert 'reported' in o.lower() and 'chosen' in o.lower()

def test_the_list(capsys):
    assert shell('--list') is None
    text = capsys.readouterr().out
    for k in described: assert re.search(rf'^{re.escape(k)} +{re.escape(method_title(k))}$', text, re.M), k
    assert max(map(len, text.splitlines()))<=80

@pytest.mark.slow
def test_the_quick_preset_from_nothing(out):
    p = subprocess.run(
        [Path(sys.executable).parent/'balmix-compare','--preset','quick','--out',out],
        capture_output=True, text=True, timeout=280, env={**os.environ, 'OMP_NUM_THREADS':'1'})
    assert p.returncode==0 and p.stderr=='', p.stderr
    assert Results(out).df.run.nunique()==6
    assert 'Training 6/6  ' in p.stdout and 'Traceback' not in p.stdout+p.stderr
