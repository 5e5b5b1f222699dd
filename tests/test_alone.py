"""Two runs in one process, which the notebook cannot have: threads train at the same time, print, warn and fork while
another one trains. The figures must be those of one run after the other, and the process must be as it was before."""

import os
import random
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import numpy as np
import pytest
import torch
from conftest import warm_call
from fastai.vision.all import Callback
from test_protocol import assert_same, compared, failing, two

from fastai_balmix.compare.alone import alone, quiet
from fastai_balmix.compare.methods import Method


def in_threads(*jobs):
    "Results of functions that are called at the same time"
    with ThreadPoolExecutor(len(jobs)) as ex: return [o.result() for o in [ex.submit(job) for job in jobs]]

@pytest.fixture(scope='module')
def one_by_one(tmp_path_factory):
    out = tmp_path_factory.mktemp('one')/'out'
    compared(out, two, folds=[1,2], augment=dict(flip='horizontal', shift=.1))
    return out

def test_runs_in_threads_are_those_of_one_after_the_other(tmp_path, one_by_one):
    before = sys.stdout,sys.stderr
    with ThreadPoolExecutor(4) as ex:
        compared(tmp_path/'out', two, folds=[1,2], augment=dict(flip='horizontal', shift=.1), executor=ex)
    assert_same(tmp_path/'out', one_by_one)
    assert (sys.stdout,sys.stderr)==before

def test_two_comparisons_in_two_threads(tmp_path, one_by_one):
    def job(name): return lambda: compared(tmp_path/name, two, folds=[1,2], augment=dict(flip='horizontal', shift=.1))
    before = sys.stdout,sys.stderr
    in_threads(job('a'), job('b'), job('b'))
    for o in 'ab': assert_same(tmp_path/o, one_by_one)
    assert (sys.stdout,sys.stderr)==before

@pytest.mark.slow
def test_threads_of_a_dask_worker(tmp_path, one_by_one):
    distributed = pytest.importorskip('distributed')
    of_threads = dict(n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None)
    with distributed.LocalCluster(**of_threads) as cluster, distributed.Client(cluster) as client:
        compared(tmp_path/'out', two, folds=[1,2], augment=dict(flip='horizontal', shift=.1),
                 executor=client.get_executor())
    assert_same(tmp_path/'out', one_by_one)

# The process is as it was

def state():
    "Everything of a process that a run, or a method, may change"
    return dict(
        python=random.getstate(), numpy=[o.tolist() if isinstance(o, np.ndarray) else o for o in np.random.get_state()],
        torch=torch.get_rng_state().tolist(), seed=torch.initial_seed(), streams=(id(sys.stdout),id(sys.stderr)),
        filters=[*warnings.filters], shown=warnings.showwarning, threads=torch.get_num_threads(),
        dtype=torch.get_default_dtype(), grad=torch.is_grad_enabled(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        only_warn=torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn=(torch.backends.cudnn.benchmark,torch.backends.cudnn.deterministic,torch.backends.cudnn.enabled),
        precision=torch.get_float32_matmul_precision(), environment=dict(os.environ), folder=os.getcwd(),
        device=torch.get_default_device(), modes=torch._C._len_torch_function_stack(),
        anomalies=torch.is_anomaly_enabled(), float_errors=np.geterr(),
        backend=dict.get(matplotlib.rcParams, 'backend'),
        handlers={o: signal.getsignal(o) for o in signal.valid_signals()-{signal.SIGCHLD}})

class Reckless(Callback):
    def before_train(self):
        torch.set_num_threads(3)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
        torch.set_float32_matmul_precision('high')
        os.environ['A_SWITCH'] = 'on'
        del os.environ['ANOTHER_SWITCH']
        warnings.simplefilter('error', ResourceWarning)
        matplotlib.use('svg')
        if threading.current_thread() is threading.main_thread(): signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def after_fit(self):
        torch.set_default_dtype(torch.float64)
        torch.autograd.set_detect_anomaly(True)
        np.seterr(under='raise', invalid='ignore')
        os.chdir('/')

def reckless(t): t.cbs.append(Reckless())
def fails_late(t):
    def fail(self):
        torch.set_default_device('meta')
        raise RuntimeError('no such luck')
    t.cbs += [Reckless(),Callback(after_epoch=fail)]

@pytest.mark.parametrize('thread', [False,True])
@pytest.mark.parametrize('how', ['well','failed','late'])
def test_a_run_leaves_the_process_as_it_was(tmp_path, monkeypatch, how, thread):
    monkeypatch.setenv('ANOTHER_SWITCH', 'on')
    matplotlib.use('agg')
    method = dict(well=Method('reckless', reckless, 'x'), failed=failing, late=Method('late', fails_late, 'x'))[how]
    random.seed(5)
    random.random()
    np.random.seed(6)
    np.random.randn()
    torch.manual_seed(7)
    torch.rand(3)
    before = state()
    def go(): compared(tmp_path/'out', ['instance',method])
    in_threads(go) if thread else go()
    now = state()
    for k in before: assert now[k]==before[k], k

def test_a_method_changes_nothing_for_the_next(tmp_path):
    os.environ['ANOTHER_SWITCH'] = 'on'
    try: compared(tmp_path/'a', [Method('reckless', reckless, 'x'),'instance'])
    finally: del os.environ['ANOTHER_SWITCH']
    compared(tmp_path/'b', ['instance'])
    rows = [(tmp_path/o/'results.csv').read_text().splitlines() for o in 'ab']
    figures = [[o.split(',')[:12] for o in lines if o.startswith('instance,')] for lines in rows]
    assert figures[0]==figures[1] and figures[0]

# Other threads

class Waits(Callback):
    "Waits in the middle of a run until another thread has done its work"
    def __init__(self, at_work, go_on): self.at_work,self.go_on = at_work,go_on
    def before_train(self):
        print('of the run')
        warnings.warn('of the run', stacklevel=1)
        self.at_work.set()
        assert self.go_on.wait(60)

def while_a_run_is_in_work(folder, job):
    "What `job` returns, which is called while a run is in work in another thread; and what came of the comparison"
    at_work,go_on = threading.Event(),threading.Event()
    waiting = Method('waits', lambda t: t.cbs.append(Waits(at_work, go_on)), 'x', version=1)
    with ThreadPoolExecutor(1) as ex:
        future = ex.submit(compared, folder, [waiting], epochs=1)
        try:
            assert at_work.wait(60)
            res = job()
        finally: go_on.set()
        return res,future.result()

def test_other_threads_print_and_warn(tmp_path, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, 'showwarning', lambda message, *args, **kwargs: shown.append(str(message)))
    def job():
        print('of another thread')
        sys.stdout.writelines(['and ','another line\n'])
        assert sys.stdout.isatty() is False and sys.stdout.encoding
        with pytest.warns(UserWarning, match='of another thread'): warnings.warn('of another thread', stacklevel=1)
        warnings.warn('shown as ever', stacklevel=1)
    before = sys.stdout
    _,res = while_a_run_is_in_work(tmp_path/'out', job)
    said = capsys.readouterr()
    assert said.out=='of another thread\nand another line\n' and 'shown as ever' in shown and 'of the run' not in shown
    assert res.record(res.df.run[0])['warnings']==['of the run'] and sys.stdout is before

def test_a_fork_waits_for_no_thread(tmp_path): assert warm_call(forked_meanwhile, tmp_path)==7

def forked_meanwhile(folder):
    def job():
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            with alone(): os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return while_a_run_is_in_work(folder/'out', job)[0]

@pytest.mark.parametrize('first', [0,1])
def test_streams_come_back_in_any_order(capsys, first):
    "Two threads are quiet at the same time; either may end first"
    begun,done = [threading.Barrier(2) for _ in range(2)],threading.Event()
    order = threading.Barrier(3)
    def work(k):
        if k: begun[0].wait(60)
        with quiet():
            if not k: begun[0].wait(60)
            begun[1].wait(60)
            print('dropped')
            order.wait(60)
            if k!=first: assert done.wait(60)
        if k==first: done.set()
        print(f'heard {k}')
    before = sys.stdout
    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for t in threads: t.start()
    order.wait(60)
    for t in threads: t.join()
    print('and the last')
    said = capsys.readouterr().out
    assert 'dropped' not in said and all(o in said for o in ('heard 0','heard 1','and the last'))
    with quiet(): print('dropped')
    assert 'dropped' not in capsys.readouterr().out
    if first==1: assert sys.stdout is before # the one that began last

@pytest.mark.cuda
def test_generators_of_gpus_are_as_before():
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state_all()
    with alone(): torch.cuda.manual_seed_all(5)
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), before))
