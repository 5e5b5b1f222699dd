"""The notebook cannot kill its own process. Here a parent is killed with SIGKILL while its children import, work, hold
Python's lock or verify images, and while it trains itself with workers. All of them must end, far from being done."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import warm_call
from PIL import Image
from test_runs import grades, recipe
from toys import alive, children, until

from fastai_balmix.compare.plan import compare
from fastai_balmix.datasets.trees import from_folder_table

# What a script does in a child, where it is imported under another name
slow_import = "import time\nif __name__!='__main__': time.sleep(600)\n"

start = """
import ctypes, sys, time
from multiprocessing import get_context
from fastai_balmix.children import following

def hold_the_lock(seconds): ctypes.PyDLL(None).sleep(seconds)

if __name__=='__main__':
    processes = [following(get_context('spawn')).Process(target=target, args=(600,)) for _ in range(2)]
    for o in processes: o.start()
    print('started', flush=True)
    time.sleep(600)
"""

def descendants(pid):
    "Process numbers of all children of a process, and theirs"
    return [o for child in children(pid) for o in (child,*descendants(child))]

def killed(script, folder, n, wait=0.):
    "End a script once it has `n` children; they must end too"
    (folder/'script.py').write_text(script)
    p = subprocess.Popen([sys.executable,'script.py'], cwd=folder, stdout=subprocess.PIPE, text=True)
    with p:
        p.stdout.readline()
        assert until(lambda: len(descendants(p.pid))>=n, 600)
        time.sleep(wait)
        there = descendants(p.pid)
        p.kill()
    all_end(there)

def all_end(pids):
    "What these processes were to do takes longer than is waited here"
    try: assert until(lambda: not any(map(alive, pids)), 60), [o for o in pids if alive(o)]
    finally:
        for o in filter(alive, pids): os.kill(int(o), signal.SIGKILL)

@pytest.mark.thinned(1)
@pytest.mark.parametrize('what', ['import','work','lock'])
def test_no_process_outlives_its_parent(tmp_path, what):
    target = dict(work='time.sleep', lock='hold_the_lock').get(what, 'print')
    script = start.replace('target=target', f'target={target}')
    if what=='import': script = slow_import+script
    killed(script, tmp_path, 2, wait=1)

def test_a_process_that_is_done_ends_as_ever(tmp_path):
    (tmp_path/'script.py').write_text(start.replace('target=target', 'target=abs').replace('time.sleep(600)', '')+
        '    for o in processes: o.join()\n    print([o.exitcode for o in processes], processes[0].name)\n')
    said = subprocess.run([sys.executable,'script.py'], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert said.stdout=='started\n[0, 0] _Follower-1\n' and not said.stderr

def verify_for_long(folder):
    d = from_folder_table(folder)
    d.verify(num_workers=2, progress=False)

def train_with_workers(folder):
    compare(grades(), ['instance'], archs='small', folds=[1], out=folder, num_workers=2,
            **{**recipe, 'show':False, 'epochs':10**6})

def parent_killed(func, *args, n):
    "End a fork once it has `n` children; they must end too"
    pid = os.fork()
    if not pid:
        try: func(*args)
        finally: os._exit(1)
    try:
        assert until(lambda: len(descendants(pid))>=n, 600)
        time.sleep(.5)
        there = descendants(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    all_end(there)

@pytest.mark.slow
def test_processes_of_verify_end_with_theirs(tmp_path):
    for i in range(10_000): # minutes of work
        fn = tmp_path/'ab'[i%2]/f'{i}.png'
        fn.parent.mkdir(exist_ok=True)
        if i<8: Image.effect_noise((800,800), 50).save(fn, compress_level=1)
        else: os.link(tmp_path/'ab'[i%2]/f'{i%8}.png', fn)
    warm_call(parent_killed, verify_for_long, tmp_path, n=2)

def test_workers_of_a_run_end_with_it(tmp_path):
    warm_call(parent_killed, train_with_workers, tmp_path/'out', n=2)

# What a fork server has imported in these tests: modules beside the script, one of them slow
forks = start.replace('import following', 'import forking').replace("following(get_context('spawn'))", 'context')
forks = forks.replace('    processes =', "    context = forking(['imported_before'])\n    processes =")

@pytest.mark.thinned(1)
@pytest.mark.parametrize('what', ['server','import','work','lock'])
def test_no_fork_outlives_the_parent_of_its_server(tmp_path, what):
    (tmp_path/'imported_before.py').write_text('import time\ntime.sleep(600)\n' if what=='server' else '')
    target = dict(work='time.sleep', lock='hold_the_lock').get(what, 'print')
    script = forks.replace('target=target', f'target={target}')
    if what=='import': script = slow_import+script
    script = script.replace('for o in processes:', "print('begun', flush=True)\n    for o in processes:")
    # a server, what Python has looking after shared memory, and two forks
    killed(script, tmp_path, 2 if what=='server' else 4, wait=1)

def test_forks_have_the_environment_and_the_path_of_the_parent(tmp_path):
    "The server does not import from the current folder, and its environment is older"
    for o in 'here','elsewhere': (tmp_path/o).mkdir()
    (tmp_path/'here'/'imported_before.py').write_text("import os,time\nwhen = time.time_ns()\nserver = os.getpid()\n")
    (tmp_path/'elsewhere'/'imported_before.py').write_text("raise RuntimeError('not from here')")
    (tmp_path/'here'/'script.py').write_text(
        "import os, sys\n"
        "from fastai_balmix.children import forking\n"
        "def say():\n"
        "    import imported_before as o\n"
        "    print(o.when, o.server!=os.getpid(), o.server==os.getppid(), os.environ['A_SWITCH'], flush=True)\n"
        "if __name__=='__main__':\n"
        "    context = forking(['imported_before'])\n"
        "    for o in 'on','off':\n"
        "        os.environ['A_SWITCH'] = o\n"
        "        p = context.Process(target=say)\n"
        "        p.start()\n"
        "        p.join()\n"
        "        assert p.exitcode==0\n")
    said = subprocess.run([sys.executable,tmp_path/'here'/'script.py'], cwd=tmp_path/'elsewhere', capture_output=True,
                          text=True, timeout=600)
    assert re.fullmatch(r'(\d+) True True on\n\1 True True off\n', said.stdout) and not said.stderr, said

def test_a_server_that_was_killed_is_started_again(tmp_path):
    (tmp_path/'script.py').write_text(
        "import os, signal, time\n"
        "from fastai_balmix.children import forking\n"
        "if __name__=='__main__':\n"
        "    context = forking(['json'])\n"
        "    p = context.Process(target=time.sleep, args=(600,))\n"
        "    p.start()\n"
        "    server = int(open(f'/proc/{p.pid}/stat').read().split()[3])\n"
        "    os.kill(server, signal.SIGKILL)\n"
        "    p.join(10)\n"
        "    q = context.Process(target=abs, args=(1,))\n"
        "    q.start()\n"
        "    q.join()\n"
        "    print(p.exitcode, q.exitcode)\n")
    said = subprocess.run([sys.executable,'script.py'], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert said.stdout=='255 0\n' and not said.stderr, said

def many_threads():
    import torch
    torch.set_num_threads(2)
    x = torch.randn(500, 500)
    assert torch.isfinite(x@x).all()

def computed_in_forks(modules, n):
    from fastai_balmix.children import forking
    processes = [forking(modules).Process(target=many_threads) for _ in range(n)]
    for o in processes: o.start()
    for o in processes: o.join(600)
    return [o.exitcode for o in processes]

@pytest.mark.slow
def test_forks_compute_with_threads_of_their_own(tmp_path):
    assert warm_call(computed_in_forks, ['fastai_balmix.compare.pool'], 3)==[0,0,0]

@pytest.mark.slow
@pytest.mark.parametrize('wait', [0,2,5])
def test_processes_of_a_comparison_that_still_import(tmp_path, wait):
    script = """
from fastai_balmix.compare.plan import compare
if __name__=='__main__':
    print('imported', flush=True)
    data = dict(reader='digits', n_folds=2)
    compare(data, ['instance','class'], 'small', out='out', jobs=2, epochs=10**5, bs=32, pretrained=False, show=False)
"""
    # one is Python's own, which looks after shared memory, the other imports, and forks what trains
    killed(script, tmp_path, 2, wait)
