"""What takes minutes: ten kills in a row, pools of fresh processes, a Dask cluster that loses a worker, jobs of
submitit, a disk that is really full."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
import pytest
import test_protocol
import test_runs
from test_protocol import ages, assert_same, assert_told, check_killed, checkpoints, compared, log, two, with_log
from toys import alive, children, until

from fastai_balmix.compare.results import Results

pytestmark = pytest.mark.slow
command = Path(sys.executable).parent/'balmix-compare'
env = {**os.environ, 'OMP_NUM_THREADS':'1', 'CUDA_VISIBLE_DEVICES':''}

def run(args, **kwargs): return subprocess.run(args, capture_output=True, text=True, timeout=280, env=env, **kwargs)
def by_command(*args): return run([command,*map(str, args)])

@contextmanager
def modules_by_value():
    "Workers elsewhere do not know this folder"
    for o in test_protocol,test_runs: cloudpickle.register_pickle_by_value(o)
    try: yield
    finally:
        for o in test_protocol,test_runs: cloudpickle.unregister_pickle_by_value(o)

def test_ten_kills_change_nothing(tmp_path):
    names = [*two,'balmix_0.2','balmix_pair','crt','tau_norm','mixup','remix','progressive','qwk_loss']
    check_killed(tmp_path, 10, names, 7, 4, folds=[1,2])

digits = '--preset','digits','--folds','1,2','--methods','instance,balmix_0.2'

@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp('alone')/'out'
    p = by_command(*digits, '--out', out)
    assert p.returncode==0 and p.stderr=='', p.stderr
    return out

@pytest.mark.parametrize('how', ['kill','terminal'])
def test_two_jobs_are_stopped_and_go_on(tmp_path, alone, how):
    out = tmp_path/'out'
    p = subprocess.Popen(
        [command,*digits,'--jobs','2','--out',out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        start_new_session=True)
    assert until(lambda: len(checkpoints(out))>=2, 600) # both processes are at work
    workers = children(p.pid)
    if how=='kill': os.kill(p.pid, signal.SIGKILL)
    else: os.killpg(p.pid, signal.SIGINT) # as a terminal does
    err = p.communicate(timeout=600)[1]
    if how=='terminal': assert p.returncode==1 and err.strip()=='Stopped. The same command resumes it.', err
    assert len(workers)>=2 and until(lambda: not any(map(alive, workers)))
    kept = ages(out)
    assert len(kept)<4
    p = by_command(*digits, '--jobs', 2, '--out', out)
    assert p.returncode==0 and p.stderr=='' and kept.items()<=ages(out).items(), p.stderr
    assert_same(out, alone)

def test_a_dask_cluster_that_loses_a_worker(tmp_path):
    distributed = pytest.importorskip('distributed')
    log[:] = [tmp_path/'log']
    what = dict(methods=with_log([*two,'balmix_0.2']), folds=[1,2], epochs=25)
    killed = []
    def kill():
        if until(lambda: len(checkpoints(tmp_path/'out'))>=3, 600):
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
    of_two = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with modules_by_value(), distributed.LocalCluster(**of_two) as cluster, distributed.Client(cluster) as client:
        pids = [*client.run(os.getpid).values()]
        t = threading.Thread(target=kill)
        t.start()
        res = compared(tmp_path/'out', executor=client.get_executor(), **what)
        t.join()
    assert killed and not alive(killed[0]) and res.meta['failed']==[] and res.df.run.nunique()==6
    n = (tmp_path/'log').read_text().count('\n')
    assert 6*25<=n<=6*25+1 # the epoch it was in, once more
    log[:] = [tmp_path/'alone.log']
    compared(tmp_path/'alone', **what)
    assert_same(tmp_path/'out', tmp_path/'alone')

def test_jobs_of_submitit(tmp_path):
    submitit = pytest.importorskip('submitit')
    ex = submitit.LocalExecutor(tmp_path/'jobs')
    ex.update_parameters(timeout_min=5)
    with modules_by_value(): compared(tmp_path/'out', two, executor=ex)
    compared(tmp_path/'alone', two)
    assert_same(tmp_path/'out', tmp_path/'alone')

def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path/'disk'
    disk.mkdir()
    def on_a_small_disk(script):
        return run(['unshare','-rm','sh','-c',f'mount -t tmpfs -o size=2m tmpfs {disk} && {script}'])
    if not shutil.which('unshare') or on_a_small_disk('true').returncode: pytest.skip('no mounts of one\'s own here')
    quick = f'{command} --preset quick --out {disk}/out'
    p = on_a_small_disk('; '.join([
        f'head -c 650k /dev/zero > {disk}/film', # leaves room for a run and its two checkpoints
        f'{quick} >&2',
        'echo "code $?"',
        f'ls {disk}/out/runs/*/run.json | wc -l',
        f'find {disk} -name "*.part" | wc -l',
        f'rm {disk}/film',
        f'{quick} && cp -r {disk}/out {tmp_path}/copy']))
    code,n,parts = (int(o) for o in re.search(r'code (\d+)\n(\d+)\n(\d+)\n', p.stdout).groups())
    assert code==1 and n<6 and parts==0 and 'Traceback' not in p.stderr, p.stderr
    assert_told(p.stderr.strip().split('\n')[-1], 'No room left for', 'Free at least twice as much on the disk of')
    by_command('--preset', 'quick', '--out', tmp_path/'whole')
    assert_same(tmp_path/'copy', tmp_path/'whole')

def test_a_network_of_timm(tmp_path):
    out = tmp_path/'out'
    nets = '--archs','test_byobnet,small','--size',32,'--epochs',1
    p = by_command('--preset', 'quick', *nets, '--methods', 'balmix_0.2', '--folds', 2, '--out', out)
    assert p.returncode==0 and [*Results(out).df.arch.unique()]==['test_byobnet','small'], p.stderr

def test_a_script_without_a_guard_is_told_so(tmp_path):
    (tmp_path/'script.py').write_text(
        "from fastai_balmix.compare.plan import compare\n"
        "data = dict(reader='digits', n_folds=2)\n"
        "compare(data, 'instance', 'small', out='out', jobs=2, epochs=1, bs=32, pretrained=False)")
    p = run([sys.executable,'script.py'], cwd=tmp_path)
    assert p.returncode==1 and "must be guarded by `if __name__ == '__main__':`" in p.stderr.strip().split('\n')[-1]
