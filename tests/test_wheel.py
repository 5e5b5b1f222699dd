"""Users install a wheel, and no other test sees one. Here a wheel is built from a clean clone and installed into an
empty environment, where the commands, the star import and the first tutorial must work from another folder."""
import os
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from zipfile import ZipFile

import pytest
from conftest import root

pytestmark = pytest.mark.slow
cfg = ConfigParser()
cfg.read(root/'settings.ini', encoding='utf-8')
commands = [o.split('=')[0] for o in cfg['DEFAULT']['console_scripts'].split()]

run_notebook = '''import sys
from execnb.shell import CaptureShell
CaptureShell().execute(sys.argv[1], sys.argv[2], exc_stop=True)
'''


def run(*cmd, **kwargs):
    "What a command printed; its errors too, if it fails"
    env = {k:v for k,v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')} | dict(MPLBACKEND='agg')
    res = subprocess.run([*map(str, cmd)], capture_output=True, text=True, env=env, **kwargs)
    assert res.returncode==0, res.stdout+res.stderr
    return res.stdout


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    "A clean clone: what is not committed is not in it"
    if not (root/'.git').exists(): pytest.skip('not a git checkout')
    dst = tmp_path_factory.mktemp('clone')/'repo'
    run('git', 'clone', '--quiet', root, dst)
    return dst


@pytest.fixture(scope='module')
def wheel(clone, tmp_path_factory):
    "A wheel, built with what is installed here, since the tests need no network"
    dst = tmp_path_factory.mktemp('wheel')
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w', dst, '.', cwd=clone)
    return next(dst.glob('fastai_balmix-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "An environment with the wheel, which sees the dependencies of this one and nothing else of it"
    env = tmp_path_factory.mktemp('env')
    run(sys.executable, '-m', 'venv', '--without-pip', env)
    pip = sys.executable,'-m','pip','--python',env/'bin'/'python'
    run(*pip, 'install', '--quiet', '--no-deps', '--no-index', wheel)
    packages = run(env/'bin'/'python', '-c', "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A path in a .pth file does not make Python read the .pth files there, such as that of an editable install
    with open(os.path.join(packages, 'dependencies.pth'), 'w') as f: f.write(sysconfig.get_path('purelib')+'\n')
    return env


def test_wheel_holds_every_file_of_the_package(clone, wheel):
    kept = '.py','.pyi','.csv','.jinja','.css','.js'
    package = clone/'fastai_balmix'
    wanted = {p.relative_to(clone).as_posix() for p in package.rglob('*') if p.suffix in kept or p.name=='py.typed'}
    with ZipFile(wheel) as f: there = {*f.namelist()}
    assert {'fastai_balmix/py.typed', 'fastai_balmix/loaders/__init__.pyi', 'fastai_balmix/report/report.css'} <= wanted
    assert not wanted-there


@pytest.mark.parametrize('command', commands)
def test_command_prints_its_help(installed, command, tmp_path):
    assert 'usage: ' in run(installed/'bin'/command, '--help', cwd=tmp_path)


def test_names_come_from_the_wheel(installed, tmp_path):
    wings = '; '.join(f'from fastai_balmix.{o} import *' for o in ('datasets','compare','report'))
    code = f'import fastai_balmix; from fastai_balmix.all import *; {wings}; '
    code += 'print(len(digits_lt().train_ds), fastai_balmix.__file__)'
    n,file = run(installed/'bin'/'python', '-c', code, cwd=tmp_path).split()
    assert int(n)==409 and file.startswith(str(installed))


def test_a_tutorial_runs_from_a_comparison_to_its_page(installed, clone, tmp_path):
    script = tmp_path/'run_notebook.py'
    script.write_text(run_notebook)
    tutorial = clone/'nbs'/'tutorials'/'02_does_it_help.ipynb'
    run(installed/'bin'/'python', script, tutorial, tmp_path/'out.ipynb', cwd=tmp_path, timeout=1800)
    assert (tmp_path/'out.ipynb').stat().st_size>10_000
