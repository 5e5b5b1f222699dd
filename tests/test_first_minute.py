"""README, followed to the letter in a terminal of 80 columns, as somebody does who has just cloned the repository.

The environment is empty; what pip would download is taken from the one that runs the tests, since the tests need no
network. Times are printed, not judged: `pytest -m slow -s tests/test_first_minute.py` shows them."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import sysconfig
import termios
import time

import pytest
from conftest import root
from test_sync import blocks

pytestmark = pytest.mark.slow
columns = 80

def typed(command, cwd):
    "What a terminal shows of a command: `(seconds, line)`, colours and lines that were written over left out"
    ours,theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    # pip sees what is installed here, and looks nowhere else
    offline = dict(PYTHONPATH=sysconfig.get_path('purelib'), PIP_NO_INDEX='1', PIP_NO_BUILD_ISOLATION='0',
                   PIP_DISABLE_PIP_VERSION_CHECK='1', TERM='xterm', MPLBACKEND='agg')
    # what the tests run under, such as PIP_QUIET, is not what a reader of README has set
    unset = 'COLUMNS','LINES','VIRTUAL_ENV'
    env = {k: v for k,v in os.environ.items() if k not in unset and not k.startswith('PIP_')}
    start = time.monotonic()
    screen = dict(stdin=theirs, stdout=theirs, stderr=theirs)
    with subprocess.Popen(['bash','-c',command], cwd=cwd, env=env|offline, **screen) as p:
        os.close(theirs)
        lines,rest = [],''
        while True:
            try: data = os.read(ours, 4096)
            except OSError: break # nobody writes any more
            if not data: break
            *done,rest = (rest+data.decode(errors='replace')).split('\n')
            lines += [(time.monotonic()-start,shown(o)) for o in done]
    os.close(ours)
    assert p.returncode==0, '\n'.join(text for _,text in lines[-30:])
    return lines

def shown(line):
    "What remains of a line on a screen"
    line = re.sub(r'\x1b\[[0-?]*[ -/]*[@-~]', '', line.rstrip('\r'))
    return line.rpartition('\r')[2]

@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    "A clean clone: what is not committed is not in it"
    if not (root/'.git').exists(): pytest.skip('not a git checkout')
    dst = tmp_path_factory.mktemp('clone')/'fastai_balmix'
    subprocess.run(['git','clone','--quiet',root,dst], check=True)
    return dst

@pytest.fixture(scope='module')
def followed(clone):
    "What README's first command shows"
    return typed(next(o for o in blocks('sh') if 'pip install' in o), clone)

def test_readme_is_followed_to_the_letter(clone, followed):
    installed = next(i for i,(_,text) in enumerate(followed) if 'Successfully installed' in text)
    said = followed[installed+1:]
    result = next(o for o in said if re.match(r'Plain sampling +\d', o[1])) # a row of the table of scores
    seconds = result[0]-followed[installed][0]
    print(f'balmix-demo: {seconds:.0f} s from the end of the installation to the first score')
    wide = [text for _,text in said if len(text)>columns and '/' not in text] # but for paths
    assert not wide, wide
    assert (clone/'balmix-demo'/'report.html').is_file()

def test_the_code_of_readme_learns_at_once(clone, followed):
    python = blocks('python')[0]
    (clone/'first.py').write_text(python)
    start = time.monotonic()
    lines = typed('.venv/bin/python first.py', clone)
    print(f'README: {time.monotonic()-start:.0f} s to the last epoch')
    last = [text for _,text in lines if re.match(r'11\s', text)][-1]
    assert float(last.split()[4])>.6 # balanced accuracy; others than README's start are a few points away
