"The scripts of `tests/benchmarks`, in their quick form, and the page that is made of their tables"
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

root = Path(__file__).resolve().parent.parent
scripts = [o.stem for o in sorted((root/'tests'/'benchmarks').glob('*.py')) if o.stem!='common']
of_methods = ['calibration_split','claims','intervals','operating_points','recipes'] # of answers, not seconds

def run(fn, *args):
    p = subprocess.run([sys.executable, root/fn, *map(str, args)], capture_output=True, text=True, timeout=600)
    assert p.returncode==0, p.stdout+p.stderr
    return p.stdout

@pytest.mark.slow
def test_quick(tmp_path):
    for o in scripts:
        if o in of_methods: continue
        assert run(f'tests/benchmarks/{o}.py', '--quick', '--out', tmp_path/'measured')
    tables = {o.stem: pd.read_csv(o) for o in (tmp_path/'measured').iterdir()}
    assert tables.keys()=={*scripts}-{*of_methods}
    assert (tables['parts'].cpu>0).all()
    for o in 'epochs','loading': assert {*tables[o].row}=={*'abcdef'}
    assert {*tables['comparisons'].row}=={*'abcde'}
    assert all(df.machine.str.contains('cores').all() for df in tables.values())
    run('docs/performance.py', '--measured', tmp_path/'measured', '--out', tmp_path)
    assert (tmp_path/'performance.md').read_text().count('\n## ')==10
    assert (tmp_path/'growing.md').read_text().count('\n## ')==1
    for o in 'epochs','growing': assert (tmp_path/'images'/f'performance-{o}.png').stat().st_size>10_000

@pytest.mark.slow
@pytest.mark.skipif(not Path('/usr/share/datasets/fashion-mnist').is_dir(),
                    reason='the Debian package dataset-fashion-mnist is not installed')
def test_operating_points(tmp_path):
    out = tmp_path/'points.jsonl'
    said = run('tests/benchmarks/operating_points.py', '--quick', '--only', 'instance;class', '--out', out)
    assert 'paired over seeds' in said and len(out.read_text().splitlines())==4

@pytest.mark.slow
@pytest.mark.skipif(not Path('/usr/share/datasets/fashion-mnist').is_dir(),
                    reason='the Debian package dataset-fashion-mnist is not installed')
def test_recipes(tmp_path):
    "The script runs, and the recipe that was chosen is among those that were measured"
    from fastai_balmix.compare.config import recipes
    run('tests/benchmarks/recipes.py', '--quick', '--out', tmp_path)
    df = pd.read_csv(root/'docs'/'measured'/'recipes.csv')
    assert {*pd.read_csv(tmp_path/'recipes.csv').columns}=={*df.columns}
    for name,values in ((k,v) for k,v in recipes.items() if v['opt_func']=='sgd'):
        same = np.logical_and.reduce([df[k]==values[k] for k in ('bs','lr','mom','wd')])
        assert same.sum()==8, name

def test_all_are_measured():
    "`make bench` runs every script that measures speed"
    text = (root/'Makefile').read_text()
    others = [o for o in scripts if f'tests/benchmarks/{o}.py --out docs/measured' not in text]
    assert others==of_methods
