"""Writing a file whole or not at all, where the notebook cannot look: containers that share a folder, links and pipes
in the way, Ctrl-C at any moment, file systems that cannot do everything, parts that a killed process has left. And
whether the package writes in any other way."""

import ast
import errno
import json
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from conftest import root, warm_call
from pebble import ProcessPool
from test_protocol import compared, forked_pools, two

from fastai_balmix import files
from fastai_balmix.files import DiskFull, disk_room, replacing, write_file

# Containers

writer = """
import os, sys
from fastai_balmix.files import write_file
assert os.getpid()==1
for _ in range(60): write_file('shared.bin', sys.argv[1].encode()*1_000_000)
"""

def test_two_containers_write_one_file(tmp_path):
    "Both processes have the number 1"
    container = ['unshare','--user','--map-root-user','--pid','--fork']
    if not shutil.which('unshare') or subprocess.run([*container,'true'], capture_output=True).returncode:
        pytest.skip('no process numbers of one\'s own here')
    (tmp_path/'writer.py').write_text(writer)
    ps = [subprocess.Popen([*container,sys.executable,'writer.py',o], cwd=tmp_path, stderr=subprocess.PIPE)
          for o in 'ab']
    seen = set()
    while any(p.poll() is None for p in ps):
        if not (tmp_path/'shared.bin').exists(): continue
        content = (tmp_path/'shared.bin').read_bytes()
        assert len(content)==1_000_000 and content in (b'a'*1_000_000,b'b'*1_000_000)
        seen.add(content[:1])
    for p in ps: assert p.wait()==0, p.stderr.read()
    for p in ps: p.stderr.close()
    assert seen=={b'a',b'b'} and {o.name for o in tmp_path.iterdir()}=={'shared.bin','writer.py'}

@pytest.mark.parametrize('mask', [0o022,0o077,0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    old = os.umask(mask)
    try: write_file(tmp_path/'a', b'x')
    finally: os.umask(old)
    assert stat.S_IMODE((tmp_path/'a').stat().st_mode)==0o666&~mask

def test_a_name_may_be_as_long_as_is_allowed(tmp_path):
    for name in 'a'*255,'ü'*127: write_file(tmp_path/name, b'x')
    assert sorted(o.name for o in tmp_path.iterdir())==['a'*255,'ü'*127]

# Links and other things in the way

def test_no_link_is_followed(tmp_path, monkeypatch):
    mine = tmp_path/'mine'
    mine.write_bytes(b'mine')
    folder = tmp_path/'out'
    folder.mkdir()
    for name,target in ('a',mine),('b',tmp_path/'nowhere'),('c','c'),('d',tmp_path):
        (folder/name).symlink_to(target)
        write_file(folder/name, b'new')
        assert not (folder/name).is_symlink() and (folder/name).read_bytes()==b'new'
    monkeypatch.setattr(files.secrets, 'token_hex', lambda n: '0'*2*n)
    (folder/f'e.{"0"*16}.part').symlink_to(mine)
    with pytest.raises(FileExistsError): write_file(folder/'e', b'new')
    assert mine.read_bytes()==b'mine' and not (tmp_path/'nowhere').exists() and not (folder/'e').exists()

def test_a_pipe_is_replaced(tmp_path):
    os.mkfifo(tmp_path/'a')
    write_file(tmp_path/'a', b'x')
    assert (tmp_path/'a').is_file() and (tmp_path/'a').read_bytes()==b'x'

# Errors

@pytest.mark.parametrize('error', [KeyboardInterrupt,SystemExit,GeneratorExit,MemoryError,ValueError,FileExistsError])
def test_a_part_goes_whatever_ends_the_writing(tmp_path, error):
    write_file(tmp_path/'a', b'old')
    with pytest.raises(error), replacing(tmp_path/'a') as f:
        f.write(b'half')
        raise error('x')
    assert os.listdir(tmp_path)==['a'] and (tmp_path/'a').read_bytes()==b'old'

def interrupted(folder, n):
    "Write files that are interrupted at random moments; what is there afterwards"
    rng = random.Random(0)
    def interrupt(*args): raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, interrupt)
    stops = 0
    for _ in range(n):
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 2e-3))
            for k in range(10**6): write_file(folder/'a', str(k).encode()*1000)
        except KeyboardInterrupt: stops += 1
    return stops,os.listdir(folder)

def test_ctrl_c_leaves_no_part(tmp_path):
    stops,there = warm_call(interrupted, tmp_path, 300)
    # in the instant in which an error is handled Python can be interrupted once more
    assert stops==300 and 'a' in there and len(there)<=2

@pytest.mark.parametrize('code', [errno.EINVAL,errno.ENOTSUP,errno.ENOSYS])
def test_a_file_system_that_cannot_tell(tmp_path, monkeypatch, code):
    def unable(fd): raise OSError(code, os.strerror(code))
    monkeypatch.setattr(os, 'fsync', unable)
    write_file(tmp_path/'a', b'x')
    assert (tmp_path/'a').read_bytes()==b'x'

def test_a_folder_that_cannot_be_opened(tmp_path, monkeypatch):
    "One may write to a folder without the right to read it"
    def denied(*args, **kwargs): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(files.os, 'open', denied)
    monkeypatch.setattr(files.os, 'scandir', denied)
    write_file(tmp_path/'a', b'x')
    assert os.listdir(tmp_path)==['a']

def test_a_folder_that_does_not_reach_the_disk(tmp_path, monkeypatch):
    synced = os.fsync
    def broken(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode): raise OSError(errno.EIO, 'Input/output error')
        synced(fd)
    monkeypatch.setattr(os, 'fsync', broken)
    with pytest.raises(OSError, match='Input/output error'): write_file(tmp_path/'a', b'x')

# Parts of processes that were killed

def test_old_parts_of_a_file_go_and_nothing_else(tmp_path):
    day,token = 86_400,'0123456789abcdef'
    def put(name, age, kind='file'):
        path = tmp_path/name
        if kind=='folder': path.mkdir()
        elif kind=='link': path.symlink_to(tmp_path/'mine')
        else: path.write_bytes(b'half')
        os.utime(path, (now-age,now-age), follow_symlinks=False)
    (tmp_path/'mine').touch()
    now = (tmp_path/'mine').stat().st_mtime
    put(f'a.{token}.part', 2*day)
    stay = dict.fromkeys([f'a.{"f"*16}.part'], (day/2,'file'))
    stay |= dict.fromkeys([f'b.{token}.part','a.part',f'a.{token}.partial',f'a.{token.upper()}.part',
                           f'a.{token}0.part','a.thesis.part',f'aa.{token}.part'], (2*day,'file'))
    stay |= {f'a.{"1"*16}.part':(2*day,'folder'), f'a.{"2"*16}.part':(2*day,'link')}
    for name,(age,kind) in stay.items(): put(name, age, kind)
    write_file(tmp_path/'a', b'x')
    assert {*os.listdir(tmp_path)}=={'a','mine',*stay}

# A full disk is told across processes

def fill(*args):
    with disk_room('a.bin (1.0 MB)', '/disk'): raise OSError(errno.ENOSPC, 'No space left on device')

def fill_as_in_a_fit(*args):
    "fastai puts words of its own into the arguments of an error"
    try: fill()
    except DiskFull as e:
        e.args = (f'Exception occured in `Checkpoint`:\n\t{e.args[0]}',)
        raise

def sent_by_pebble(func):
    with ProcessPool(1, context=get_context('fork')) as ex: return ex.schedule(func).exception()

def sent_by_python(func):
    with ProcessPoolExecutor(1, get_context('fork')) as ex: return ex.submit(func).exception()

def sent_by_pool(func):
    with get_context('fork').Pool(1) as ex:
        try: return ex.apply(func)
        except OSError as e: return e

@pytest.mark.thinned(1)
@pytest.mark.parametrize('func', [fill,fill_as_in_a_fit])
@pytest.mark.parametrize('send', [sent_by_pebble,sent_by_python,sent_by_pool])
def test_a_full_disk_is_told_across_processes(send, func):
    e = warm_call(send, func)
    assert type(e) is DiskFull and e.errno==errno.ENOSPC
    assert e.strerror=='No room left for a.bin (1.0 MB). Free at least twice as much on the disk of /disk and start '\
        'again: what is finished is kept'
    assert str(pickle.loads(pickle.dumps(e)))==f'[Errno {errno.ENOSPC}] {e.strerror}'

def checkpoints_find_no_room(folder, **kwargs):
    "What a comparison says, and the failures in its folder"
    forked_pools()
    def opened(path, *args):
        if 'checkpoint' not in Path(path).name: return open(path, *args)
        os.symlink('/dev/full', path)
        return open(path, 'wb')
    files.open = opened
    try: compared(folder, two, **kwargs)
    except DiskFull as e: said = str(e)
    return said,[json.loads(o.read_text())['error'] for o in folder.glob('runs/*/error.json')]

@pytest.mark.parametrize('jobs', [1,2])
def test_a_comparison_leaves_the_sentence_of_a_full_disk(tmp_path, jobs):
    said,errors = warm_call(checkpoints_find_no_room, tmp_path/'out', jobs=jobs)
    words = 'No room left for checkpoint1.pth (0.1 MB). Free at least twice as much on the disk of'
    assert words in said and errors and all(words in o and o.startswith('DiskFull: ') for o in errors)
    assert not [*tmp_path.rglob('*.part')]

# All that the package writes

# Calls that write or delete, and where each is allowed
writers = {'write_text','write_bytes','savefig','to_csv','to_excel','to_parquet','to_json','save','savez',
           'savez_compressed','unlink','rmdir','rmtree','symlink_to','hardlink_to','touch','mkstemp',
           'NamedTemporaryFile','TemporaryFile','copyfile','copytree'}
# The same of these modules; elsewhere the names have other meanings
of_modules = {'os':{'remove','rename','replace','link','symlink','truncate','removedirs','write'},
              'shutil':{'copy','copy2','move'}, 'json':{'dump'}, 'yaml':{'dump'}, 'pickle':{'dump'}}
allowed = {
    ('files','open'), ('files','replace'), ('files','unlink'), # `replacing`, and parts
    ('loaders.store','TemporaryFile'), ('loaders.store','write'), # memory that processes share
    # to a file of `replacing`, or to memory
    ('callback.checkpoint','save'), ('compare.fitting','save'), ('compare.fitting','savez_compressed'),
    ('demo','savefig'), ('compare.cli','savefig'), ('report.sections','savefig'),
    ('report.card','save'), ('datasets.pictures','save'), # to memory
    ('report.page','save'), # `Report.save`, by `write_file`
    ('demo','unlink'), ('demo','rmdir'), # what is in its record
    ('children','open'), # a pipe to a process
    ('datasets.stores','rmdir'), ('datasets.stores','unlink'), # what it has written, by its names
    ('compare.attempts','unlink'), # checkpoints and errors of a finished run
    ('compare.folder','unlink'), # outdated figures
    ('compare.folder','rename'), # what is in the way of a folder of results is put aside
    ('compare.plan','dump'), # to text
}

def calls_that_write(path):
    "Names of functions that write or delete in a module"
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call): continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        owner = node.func.value.id if isinstance(getattr(node.func, 'value', None), ast.Name) else ''
        texts = [o.value for o in (*node.args,*(k.value for k in node.keywords)) if isinstance(o, ast.Constant)]
        modes = [o for o in texts if isinstance(o, str) and {*o} & {*'wax+'} and {*o} <= {*'wax+bt'}]
        if name in ('open','fdopen') and modes: yield 'open'
        elif name in ('to_csv','to_json') and not node.args: continue # text, for `write_file`
        elif name in writers or name in of_modules.get(owner, ()): yield name

def test_the_package_writes_in_no_other_way():
    package = root/'fastai_balmix'
    found = set()
    for path in package.rglob('*.py'):
        room = '.'.join(path.relative_to(package).with_suffix('').parts)
        found |= {(room,o) for o in calls_that_write(path)}
    assert found==allowed
