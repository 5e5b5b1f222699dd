"""The notebooks are the first test suite: each must run from top to bottom, in a process of its own.

They run on copies, since some write files."""
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import root, warm_call

skip = '_proc','.ipynb_checkpoints'
notebooks = sorted(p.relative_to(root).as_posix() for p in (root/'nbs').rglob('*.ipynb') if not {*skip} & {*p.parts})


def execute(folder, nb):
    "Run notebook `nb` of the project in `folder`; what goes wrong is printed"
    from nbdev.config import get_config
    from nbdev.test import test_nb  # its name would make pytest collect it
    os.chdir(folder)
    ok,_ = test_nb(Path(folder)/nb, skip_flags=get_config().tst_flags.split(), basepath=root, profile=False)
    if not ok: raise AssertionError(f'{nb} fails')


def run_copy(nb, folder, timeout=900):
    "Execute `nb` in a copy of the notebooks; returns what went wrong, or ''"
    shutil.copytree(root/'nbs', folder/'nbs', ignore=shutil.ignore_patterns(*skip), dirs_exist_ok=True)
    shutil.copy(root/'pyproject.toml', folder)
    try: warm_call(execute, str(folder), nb, timeout=timeout)
    except Exception as e: return '\n'.join([f'{type(e).__name__}: {e}', *e.__notes__])
    return ''


# These train for as long as all others together
long = [f'nbs/{o}.ipynb' for o in (
    'callback/deferred', 'callback/mixup', 'classifier', 'demo', 'inference/prior', 'inference/tta', 'losses/rare',
    'report/page', 'tutorials/01_first_fit', 'tutorials/03_grading', 'tutorials/06_distributed', 'tutorials/rivals')]

@pytest.mark.parametrize('nb', [pytest.param(o, marks=[pytest.mark.slow]*(o in long)) for o in notebooks])
def test_notebook(nb, tmp_path):
    err = run_copy(nb, tmp_path)
    if err: pytest.fail(err, pytrace=False)


def test_there_are_notebooks(): assert {*long} < {*notebooks}


# The harness itself: a failure must arrive, with its text

def _write(path, *sources):
    path.parent.mkdir(exist_ok=True)
    empty = dict(cell_type='code', metadata={}, outputs=[], execution_count=None)
    cells = [empty | dict(id=f'c{i}', source=s) for i,s in enumerate(sources)]
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))


@pytest.mark.parametrize('source,timeout,words', [
    ("raise ValueError('wrong here')", 60, ('ValueError: wrong here', 'Cell #2')),
    ("import time\ntime.sleep(600)", 5, ('TimeoutError: execute was not done in 5 s', 'time.sleep(600)')),
    ("import os\nos._exit(3)", 60, ('ended without a word, exit code 3',))])
def test_failure_is_shown(tmp_path, source, timeout, words):
    _write(tmp_path/'nbs'/'bad.ipynb', 'x = 1', source)
    err = run_copy('nbs/bad.ipynb', tmp_path, timeout)
    for o in words: assert o in err


def test_notebooks_stay_as_they_are(tmp_path):
    before = sorted((root/'nbs').rglob('*'))
    _write(tmp_path/'nbs'/'good.ipynb', "from pathlib import Path\nPath('left.txt').write_text('behind')")
    assert run_copy('nbs/good.ipynb', tmp_path)==''
    assert (tmp_path/'nbs'/'left.txt').exists()
    assert sorted((root/'nbs').rglob('*'))==before
