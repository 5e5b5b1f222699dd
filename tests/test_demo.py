"""The demonstration as a command: what a shell sees, which the notebook cannot show."""

import subprocess,sys
from pathlib import Path
import pandas as pd
import pytest
from fastai_balmix.demo import demo_words,methods

def run(*args, **kwargs): return subprocess.run([*args], capture_output=True, text=True, timeout=280, **kwargs)

def test_what_is_there_is_kept(tmp_path):
    (tmp_path/'balmix-demo').mkdir()
    (tmp_path/'balmix-demo'/'results.csv').write_text('mine')
    res = run(sys.executable, '-m', 'fastai_balmix', cwd=tmp_path)
    assert res.returncode==1 and "'balmix-demo' is there already and is kept" in res.stderr and 'Traceback' not in res.stderr
    assert (tmp_path/'balmix-demo'/'results.csv').read_text()=='mine'

def test_one_epoch_is_one():
    df = pd.DataFrame([dict(method=m, seed=0, epochs=1, MCC=1., balanced_accuracy=1.) for m in methods])
    assert ' 1 epoch from scratch' in demo_words(df) and ' 5 epochs from scratch' in demo_words(df.assign(epochs=5))

@pytest.mark.slow
def test_the_command_trains_prints_and_writes(tmp_path):
    out = tmp_path/'a'/'b'
    (tmp_path/'a').mkdir()
    for force in [],['--force']:
        res = run(Path(sys.executable).parent/'balmix-demo', '--quick', '--out', out, *force)
        assert res.returncode==0, res.stderr
        assert {p.name for p in out.iterdir()}=={'class_distribution.png', 'mixed_pairs.png', 'results.csv'}
        df = pd.read_csv(out/'results.csv')
        assert df.method.tolist()==['instance sampling', 'class-balanced sampling', 'Balanced-MixUp 0.2']
        for row in df.itertuples(): assert f'{row.method} ' in res.stdout and f'{row.MCC:.1f}' in res.stdout and f'{row.balanced_accuracy:.1f}' in res.stdout
        assert 'In this run' in res.stdout and 'MCC is taken at the training prevalence' in res.stdout.replace('\n', ' ')
