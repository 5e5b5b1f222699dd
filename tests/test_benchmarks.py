"The scripts of `tests/benchmarks`, in their quick form, and the page that is made of their tables"
import subprocess,sys
from pathlib import Path

import pandas as pd
import pytest

root = Path(__file__).resolve().parent.parent
scripts = [o.stem for o in sorted((root/'tests'/'benchmarks').glob('*.py')) if o.stem!='common']

def run(fn, *args):
    p = subprocess.run([sys.executable, root/fn, *map(str, args)], capture_output=True, text=True, timeout=600)
    assert p.returncode==0, p.stdout+p.stderr
    return p.stdout

@pytest.mark.slow
def test_quick(tmp_path):
    if not Path('/usr/share/datasets/fashion-mnist').is_dir(): scripts.remove('operating_points') # which needs it
    for o in scripts:
        out = tmp_path/('points.jsonl' if o=='operating_points' else 'measured')
        said = run(f'tests/benchmarks/{o}.py', '--quick', '--out', out)
        assert said and out.exists()
    tables = {o.stem: pd.read_csv(o) for o in (tmp_path/'measured').iterdir()}
    assert tables.keys()=={*scripts}-{'operating_points'}
    assert {*tables['epochs'].row}=={*'abcdef'} and all(df.machine.str.contains('cores').all() for df in tables.values())
    run('docs/performance.py', '--measured', tmp_path/'measured', '--out', tmp_path)
    page = (tmp_path/'performance.md').read_text()
    assert page.count('## ')==4 and page.count('\n# ')==2 and all((tmp_path/o).stat().st_size>10_000 for o in ('images/performance-epochs.png','images/performance-growing.png'))

def test_all_are_measured():
    "`make bench` runs every script that measures speed"
    text = (root/'Makefile').read_text()
    assert [o for o in scripts if f'tests/benchmarks/{o}.py --out docs/measured' not in text]==['operating_points']
