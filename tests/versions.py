"""The fast suite on the lowest versions that `settings.ini` states, and on the newest: `python tests/versions.py`.

Each environment takes about 6 GB and is removed when its tests are over. uv chooses the versions: its `lowest-direct`
takes each requirement at its lower bound, and what those require in its newest form that fits."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from shutil import rmtree, which
from xml.etree import ElementTree

root = Path(__file__).resolve().parent.parent
resolutions = dict(lowest='lowest-direct', newest='highest')
shown = ['fastai','torch','torchvision','timm','scikit-learn','scipy','numpy','pandas']
columns = ['versions','python',*shown,'passed','failed','skipped','seconds']

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                 formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument('which', nargs='*', default=['lowest','newest'], metavar='lowest|newest', help='versions to run on')
parser.add_argument('--python', nargs='+', default=['3.11'], help='versions, or paths, of the interpreters')
parser.add_argument('--where', type=Path, help='folder for environments and logs; a temporary one where none is named')
parser.add_argument('--keep', action='store_true', help='leave the environments there')
parser.add_argument('--tests', nargs='*', default=[], metavar='FILE', help='test files, instead of all')


def environment(folder, python, resolution):
    "A new environment in `folder` with the project and what its tests need; versions by package"
    def uv(*args, **kwargs): return subprocess.run(['uv', *args], cwd=root, check=True, **kwargs)
    uv('venv', '--quiet', '--clear', '--no-project', '--python', python, str(folder))
    uv('pip', 'install', '--quiet', '--python', str(folder), '--resolution', resolution, '--editable', '.[dev]')
    packages = uv('pip', 'list', '--python', str(folder), '--format', 'json', capture_output=True, text=True).stdout
    ask = [folder/'bin'/'python', '-c', 'import platform; print(platform.python_version())']
    version = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    return {o['name']:o['version'] for o in json.loads(packages)} | dict(python=version.strip())


def run_tests(folder, log, files):
    "Counts and seconds of the fast suite, or of some of its files, in an environment; `log` gets what pytest prints"
    xml = log.with_name(f'{log.name}.xml')
    env = os.environ|dict(PATH=f"{folder/'bin'}{os.pathsep}{os.environ['PATH']}", VIRTUAL_ENV=str(folder))
    env.pop('PYTHONPATH', None)
    command = [folder/'bin'/'pytest', '-p', 'no:cacheprovider', f'--junitxml={xml}', *files]
    start = time.monotonic()
    with open(log, 'w') as f: done = subprocess.run(command, cwd=root, env=env, stdout=f, stderr=subprocess.STDOUT)
    seconds = round(time.monotonic()-start)
    if done.returncode not in (0,1):
        raise ChildProcessError(f'pytest ended with exit code {done.returncode}: see {log}')
    suites = [*ElementTree.parse(xml).iter('testsuite')]
    n = {k: sum(int(o.get(k)) for o in suites) for k in ('tests','failures','errors','skipped')}
    failed = n['failures'] + n['errors']
    return dict(passed=n['tests']-failed-n['skipped'], failed=failed, skipped=n['skipped'], seconds=seconds)


def table(rows):
    cells = [columns, ['---']*len(columns), *([str(r.get(c, '')) for c in columns] for r in rows)]
    return '\n'.join(f'| {" | ".join(o)} |' for o in cells)


def main(args):
    if not which('uv'): parser.error('uv is not there: `pip install uv`')
    where = args.where or Path(tempfile.mkdtemp(prefix='versions-'))
    where.mkdir(parents=True, exist_ok=True)
    rows = []
    for python in args.python:
        for name in args.which:
            env = (where/f'{name}-{Path(python).name}').absolute()
            log = env.with_name(f'{env.name}.log')
            try:
                row = dict(versions=name) | environment(env, python, resolutions[name])
                row |= run_tests(env, log, args.tests)
            finally:
                if not args.keep: rmtree(env, ignore_errors=True)
            rows.append(row)
            print(table(rows), end='\n\n', flush=True)
            if row.get('failed'): print(f'What failed: {log}')
    if not args.where and not any(o.get('failed') for o in rows) and not args.keep: rmtree(where)
    return any(o.get('failed') for o in rows)


if __name__ == '__main__':
    args = parser.parse_args()
    for o in args.which:
        if o not in resolutions: parser.error(f'{o} is neither of {", ".join(resolutions)}')
    sys.exit(main(args))
