"""What takes minutes: ten kills in a row, pools of fresh processes, a Dask cluster that loses a worker, jobs of submitit, a disk that is really full."""

import os,re,shutil,signal,subprocess,sys,threading
from pathlib import Path
import cloudpickle
import pytest
import test_protocol,test_runs
from fastai_balmix.compare.results import Results
from test_protocol import ages,assert_same,check_killed,checkpoints,compared,log,with_log
from toys import alive,children,until

pytestmark = pytest.mark.slow
command = Path(sys.executable).parent/'balmix-compare'
env = {**os.environ, 'OMP_NUM_THREADS':'1', 'CUDA_VISIBLE_DEVICES':''}

def by_command(*args, **kwargs): return subprocess.run([command,*map(str, args)], capture_output=True, text=True, timeout=280, env=env, **kwargs)

def test_ten_kills_change_nothing(tmp_path):
    check_killed(tmp_path, 10, ['instance','class','balmix_0.2','balmix_pair','crt','tau_norm','mixup','remix','progressive','qwk_loss'], 7, 4, folds=[1,2])

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
    p = subprocess.Popen([command,*digits,'--jobs','2','--out',out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    assert until(lambda: len(checkpoints(out))>=2, 120) # both processes are at work
    workers = children(p.pid)
    if how=='kill': os.kill(p.pid, signal.SIGKILL)
    else: os.killpg(p.pid, signal.SIGINT) # as a terminal does
    said,err = p.communicate(timeout=60)
    if how=='terminal': assert p.returncode==1 and err.strip()=='Stopped. The same command resumes here.', err
    assert len(workers)>=2 and until(lambda: not any(map(alive, workers)), 30)
    kept = ages(out)
    assert len(kept)<4
    p = by_command(*digits, '--jobs', 2, '--out', out)
    assert p.returncode==0 and p.stderr=='' and kept.items()<=ages(out).items(), p.stderr
    assert_same(out, alone)

def test_a_dask_cluster_that_loses_a_worker(tmp_path):
    distributed = pytest.importorskip('distributed')
    for o in test_protocol,test_runs: cloudpickle.register_pickle_by_value(o) # workers do not know this folder
    log[:] = [tmp_path/'log']
    what = dict(methods=with_log(['instance','balmix_0.2','class']), folds=[1,2], epochs=25)
    killed = []
    def kill():
        if until(lambda: len(checkpoints(tmp_path/'out'))>=3, 120):
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
    try:
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, distributed.Client(cluster) as client:
            pids = [*client.run(os.getpid).values()]
            t = threading.Thread(target=kill)
            t.start()
            res = compared(tmp_path/'out', executor=client.get_executor(), **what)
            t.join()
    finally:
        for o in test_protocol,test_runs: cloudpickle.unregister_pickle_by_value(o)
    assert killed and not alive(killed[0]) and res.meta['failed']==[] and res.df.run.nunique()==6
    lines = (tmp_path/'log').read_text().split('\n')[:-1]
    assert 6*25<=len(lines)<=6*25+1 # the epoch it was in, once more
    log[:] = [tmp_path/'alone.log']
    compared(tmp_path/'alone', **what)
    assert_same(tmp_path/'out', tmp_path/'alone')

def test_jobs_of_submitit(tmp_path):
    submitit = pytest.importorskip('submitit')
    ex = submitit.LocalExecutor(tmp_path/'jobs')
    ex.update_parameters(timeout_min=5)
    for o in test_protocol,test_runs: cloudpickle.register_pickle_by_value(o)
    try: compared(tmp_path/'out', ['instance','class'], executor=ex)
    finally:
        for o in test_protocol,test_runs: cloudpickle.unregister_pickle_by_value(o)
    compared(tmp_path/'alone', ['instance','class'])
    assert_same(tmp_path/'out', tmp_path/'alone')

def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path/'disk'
    disk.mkdir()
    def on_a_small_disk(script): return subprocess.run(['unshare','-rm','sh','-c',f'mount -t tmpfs -o size=2m tmpfs {disk} && {script}'], capture_output=True, text=True, timeout=280, env=env)
    if not shutil.which('unshare') or on_a_small_disk('true').returncode: pytest.skip('no mounts of one\'s own here')
    run = f'{command} --preset quick --out {disk}/out'
    # room for a run and its two checkpoints, what is finished copied out once there is more
    p = on_a_small_disk(f'head -c 1050k /dev/zero > {disk}/film; {run} >&2; echo "code $?"; ls {disk}/out/runs/*/run.json | wc -l; find {disk} -name "*.part" | wc -l; rm {disk}/film; {run} && cp -r {disk}/out {tmp_path}/copy')
    code,n,parts = (int(o) for o in re.search(r'code (\d+)\n(\d+)\n(\d+)\n', p.stdout).groups())
    assert code==1 and n<6 and parts==0 and 'Traceback' not in p.stderr, p.stderr
    said = p.stderr.strip().split('\n')[-1]
    assert said.startswith('balmix-compare: ') and 'No room left for' in said and 'Free at least twice as much on the disk of' in said, p.stderr
    by_command('--preset', 'quick', '--out', tmp_path/'whole')
    assert_same(tmp_path/'copy', tmp_path/'whole')

def test_a_network_of_timm(tmp_path):
    args = ['--preset','quick','--archs','test_byobnet,small','--size',32,'--epochs',1,'--methods','balmix_0.2','--folds',2,'--out',tmp_path/'out']
    p = by_command(*args)
    assert p.returncode==0 and [*Results(tmp_path/'out').df.arch.unique()]==['test_byobnet','small'], p.stderr
