"""A child process that has fastai and the package imported already, for tests that must not share a process.

Importing them takes seconds and a notebook leaves its traces in a process (backend, seeds, patches). So one server
imports everything once, and each call of `warm_call` runs in a fork of it."""
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver, get_context, set_start_method
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from filelock import FileLock

root = Path(__file__).resolve().parent.parent
context = get_context('forkserver')
preload = ['fastai.vision.all', 'fastai.distributed', 'nbdev.test', 'nbdev.clean', 'nbdev.processors', 'nbdev.doclinks',
           'nbconvert', 'matplotlib.pyplot', 'matplotlib_inline.backend_inline', 'pandas', 'sklearn.datasets',
           'sklearn.metrics', 'scipy.stats', 'timm', 'pytest', 'hypothesis', 'fastai_balmix.compare.plan',
           'fastai_balmix.report.page', 'fastai_balmix.callback.fitcheck', 'fastai_balmix.callback.rivals',
           'fastai_balmix.inference.tta'] # but not `all`, which changes the callbacks of every learner

# A fork cannot use a GPU that the server has seen, small nets are several times slower where two processes each want
# all cores, and plots must not look for a screen
server_env = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', MPLBACKEND='agg')
# Here too, before PyTorch is imported
for k in 'OMP_NUM_THREADS','OPENBLAS_NUM_THREADS': os.environ.setdefault(k, server_env[k])

# What a shell or CI has set for itself must not change what tests and their processes print or install
of_a_shell = 'COLUMNS','LINES','NO_COLOR','FORCE_COLOR','CLICOLOR','CLICOLOR_FORCE','PY_COLORS'
for k in [*os.environ]:
    if k in of_a_shell or k.startswith('PIP_'): del os.environ[k]


# Tests with many cases

def one_of_each(cases):
    "Few of the cases of a test, such that each value of each parameter is in one of them"
    values = [{(k,id(v)) for k,v in o.callspec.params.items()} for o in cases]
    chosen,missing = [],set().union(*values)
    while missing:
        chosen.append(max(range(len(cases)), key=lambda i: len(values[i]&missing)))
        missing -= values[chosen[-1]]
    return [cases[i] for i in chosen]


@pytest.hookimpl(tryfirst=True) # before `-m` chooses
def pytest_collection_modifyitems(items):
    "Of a test that is `thinned`, few cases are fast, or as many as it says; the others are slow"
    cases = {}
    for o in items:
        if not o.get_closest_marker('thinned') or any(map(o.get_closest_marker, ('slow','cuda'))): continue
        cases.setdefault(o.nodeid.partition('[')[0], []).append(o)
    for name,all_of_it in cases.items():
        n = all_of_it[0].get_closest_marker('thinned').args
        if not n: fast = one_of_each(all_of_it)
        else: fast = random.Random(name).sample(all_of_it, min(n[0], len(all_of_it)))
        for o in all_of_it:
            if o not in fast: o.add_marker(pytest.mark.slow)


def pytest_collection_finish(session):
    """Start the server where tests will want it: it imports while others run, and there is one per process, so it must
    come first"""
    def wants(item):
        users = 'warm_call','on_ranks'
        return 'warm_call' in item.fixturenames or any(hasattr(item.module, o) for o in users)
    if not any(map(wants, session.items)) or session.config.option.collectonly: return
    old = {k: os.environ.get(k) for k in server_env}
    os.environ.update(server_env)
    context.set_forkserver_preload(preload)
    stderr,null = os.dup(2),os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2) # what imports warn of must not appear among, or after, what pytest prints
    try: forkserver.ensure_running()
    finally:
        os.dup2(stderr, 2)
        for fd in stderr,null: os.close(fd)
        for k,v in old.items():
            if v is None: del os.environ[k]
            else: os.environ[k] = v


def hear_ctrl_c():
    "Be interrupted by SIGINT, which a shell has the processes ignore that it starts in the background"
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)

hear_ctrl_c()

def _child(conn, log, job):
    os.setsid() # so that workers of data loaders can be ended with it
    hear_ctrl_c()
    # Else workers would start the way this process did, not the way they do for a user
    set_start_method(None, force=True)
    fd = os.open(log, os.O_WRONLY|os.O_APPEND)
    for std in 1,2: os.dup2(fd, std)
    try: res = True, pickle.loads(job)()
    except BaseException as e:
        traceback.print_exc()
        res = False, e
    try: msg = pickle.dumps(res)
    except Exception as e: msg = pickle.dumps((False, TypeError(f'{type(res[1]).__name__} cannot be sent: {e}')))
    for std in sys.stdout,sys.stderr: std.flush()
    conn.send_bytes(msg)


def _kill_group(pid):
    with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)


def warm_call(
    func, # A function that can be pickled: the top level of a module
    *args, # Its arguments
    timeout:float=900, # Seconds until it is ended: it hangs, whatever else the machine does
    **kwargs # Its keyword arguments
):
    """Result of `func(*args, **kwargs)` in a fork of a process that has fastai imported; its error, with all it
    printed, is raised here"""
    __tracebackhide__ = True
    recv,send = context.Pipe(duplex=False)
    with recv, tempfile.NamedTemporaryFile(prefix='warm-') as log:
        p = context.Process(target=_child, args=(send, log.name, pickle.dumps(partial(func, *args, **kwargs))))
        p.start()
        send.close()
        try:
            if not wait([recv, p.sentinel], timeout):
                os.kill(p.pid, signal.SIGINT) # prints where it hangs
                p.join(5)
                raise TimeoutError(f'{func.__name__} was not done in {timeout:g} s')
            try: ok,res = pickle.loads(recv.recv_bytes())
            except EOFError:
                p.join(5)
                raise ChildProcessError(f'{func.__name__} ended without a word, exit code {p.exitcode}') from None
            p.join(10)
            if ok: return res
            raise res
        except BaseException as e:
            e.add_note(Path(log.name).read_text(encoding='utf-8', errors='replace')[-20_000:])
            raise
        finally: _kill_group(p.pid)


@pytest.fixture(name='warm_call', scope='session')
def warm_call_fixture():
    "`warm_call`, for tests that do not import this file"
    return warm_call


@pytest.fixture(scope='session')
def built(tmp_path_factory):
    "Folder of the site, which the first of pytest's processes makes that wants it"
    base = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ: base = base.parent # which they share
    dst = base/'built-site'
    with FileLock(f'{dst}.lock'):
        if not (dst/'made').exists():
            shutil.rmtree(dst, ignore_errors=True)
            build_site(dst)
            (dst/'made').touch()
    return dst/'site'


def build_site(
    dst # Folder to build in
):
    "Make the site from a copy of the repository, strictly, and without a fault that its crawl finds"
    left_out = shutil.ignore_patterns('_proc', '.ipynb_checkpoints', '__pycache__')
    for o in 'nbs','docs','fastai_balmix','tests': shutil.copytree(root/o, dst/o, ignore=left_out)
    for o in [*root.glob('*.md'), *(root/o for o in ('pyproject.toml','settings.ini','LICENSE'))]: shutil.copy(o, dst)
    trained = root/'build'/'demo' # what `make docs` has kept is not trained again
    if trained.is_dir(): shutil.copytree(trained, dst/'build'/'demo')
    p = subprocess.run([sys.executable, 'docs/build.py'], cwd=dst, env=os.environ|{'PYTHONPATH':str(dst)},
                       capture_output=True, text=True)
    assert p.returncode==0, p.stdout[-5000:]+p.stderr[-5000:]
