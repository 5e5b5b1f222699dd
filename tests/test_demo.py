"""The demonstration as a command: what a shell sees, and what it replaces, which the notebook cannot show."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fastai_balmix.compare.results import Results
from fastai_balmix.demo import demo


def run(*args, **kwargs): return subprocess.run([*args], capture_output=True, text=True, timeout=280, **kwargs)
def command(name): return Path(sys.executable).parent/name

def test_what_is_there_is_kept(tmp_path):
    (tmp_path/'balmix-demo').mkdir()
    (tmp_path/'balmix-demo'/'results.csv').write_text('mine')
    res = run(sys.executable, '-m', 'fastai_balmix', cwd=tmp_path)
    assert res.returncode==1 and 'Traceback' not in res.stderr
    assert "'balmix-demo' is there already and is kept" in res.stderr
    assert (tmp_path/'balmix-demo'/'results.csv').read_text()=='mine'

def test_versions_and_help_need_no_fastai(tmp_path):
    said = run(sys.executable, '-m', 'fastai_balmix', '--versions', cwd=tmp_path)
    assert said.returncode==0 and not said.stderr and not [*tmp_path.iterdir()]
    starts = ['fastai_balmix 0','fastai 2','torch 2','torchvision','timm','scikit-learn','numpy','pandas',
              'Python 3','','cores: ','GPU: ']
    lines = said.stdout.splitlines()
    assert len(lines)==len(starts) and all(a.startswith(b) for a,b in zip(lines, starts))
    for module in 'demo','compare.cli','report.cli':
        seen = run(sys.executable, '-c', f"import sys, fastai_balmix.{module}; print(*sys.modules)").stdout.split()
        assert 'fastai_balmix.commands' in seen and not {'torch','fastai','numpy','pandas'} & {*seen}

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with the settings and the files of a demonstration, and none of its contents"
    from fastai_balmix.compare.settings import presets
    out = tmp_path_factory.mktemp('made')/'out'
    (out/'runs'/'a').mkdir(parents=True)
    for o in 'meta.json','results.csv','report.html','runs/a/run.json': (out/o).write_text('{}')
    (out/'settings.yaml').write_text(yaml.safe_dump(presets['demo']))
    return out

changes = ['methods','training','data','epochs','a file','a file of a run','no meta','no settings','a link']

@pytest.mark.parametrize('change', changes)
def test_force_replaces_nothing_but_a_demonstration(made, tmp_path, change, monkeypatch):
    import shutil

    from fastai_balmix.compare import plan
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(plan, 'compare', stop)
    out = tmp_path/'out'
    shutil.copytree(made, out)
    s = yaml.safe_load((out/'settings.yaml').read_text())
    if change=='methods': s['methods'] = ['instance']
    if change=='training': s['training']['lr'] = .1
    if change=='data': s['data'] = dict(reader='digits', n_folds=5)
    if change=='epochs': s.update(training=dict(s['training'], epochs=10), seeds=[0])
    (out/'settings.yaml').write_text(yaml.safe_dump(s))
    if change=='a file': (out/'thesis.tex').touch()
    if change=='a file of a run': (out/'runs'/'a'/'weights.pth').touch()
    if change=='no meta': (out/'meta.json').unlink()
    if change=='no settings': (out/'settings.yaml').unlink()
    if change=='a link':
        out.rename(tmp_path/'there')
        out.symlink_to(tmp_path/'there')
    with pytest.raises(SystemExit) as e: demo(out=out, quick=True, force=True)
    if change=='epochs': assert 'Stopped' in str(e.value) and not out.exists()
    else:
        assert 'does not look like the output of an earlier balmix-demo, and is kept' in str(e.value)
        assert (out/'runs').is_dir()

@pytest.mark.slow
def test_the_command_trains_prints_and_writes(tmp_path):
    out = tmp_path/'a'/'b'
    for force in [],['--force']:
        res = run(command('balmix-demo'), '--quick', '--out', out, *force)
        assert res.returncode==0 and res.stderr=='', res.stderr
        assert {p.name for p in out.iterdir()}=={'class_distribution.png','mixed_pairs.png','report.html','results.csv',
                                                 'meta.json','settings.yaml','runs'}
        df = Results(out).df
        assert [*df.method.unique()]==['instance','class','balmix_0.2'] and df.run.nunique()==9
        df = df[df.part=='report']
        for m in df.method.unique():
            means = 100*df[df.method==m].groupby('point').balanced_accuracy.mean()
            want = [f'{means[o]:.1f}' for o in ('as trained','train prevalence','balanced prior')]
            row = next(o.split() for o in res.stdout.splitlines() if o.startswith(f'{m} ') and 'against' not in o)
            assert row==[m,*want]
        assert df.balanced_accuracy[df.point=='as trained'].mean()>.7
        assert 'balmix_0.2 against instance, balanced accuracy' in res.stdout
        assert 'no forecast for other data' in res.stdout
