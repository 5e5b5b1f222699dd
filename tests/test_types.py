"""What a type checker makes of the package, which no notebook shows: annotations hold, and reach a user's code."""
import subprocess
import sys
import tomllib

import pytest
from conftest import root
from test_sync import read

mistakes = '''from fastai_balmix.callback.mixup import BalancedMixUp
from fastai_balmix.loaders.draws import class_counts,sampling_probs
from fastai_balmix.metrics.scores import mcc
n = class_counts([0,0,1], n_classes=None) # right
sampling_probs(n, q='class').mean() # right
mcc(n)*100 # right
class_counts([0,0,1], n_classes='2')
sampling_probs(n).means()
BalancedMixUp(alpha='0.2')
BalancedMixUp(aplha=.2)
'''


def mypy(*args):
    "What mypy says. Its cache in the project makes half a minute 3 seconds from the second run on"
    cmd = [sys.executable, '-m', 'mypy', '--no-error-summary', *args]
    res = subprocess.run(cmd, cwd=root, capture_output=True, text=True)
    return res.stdout+res.stderr


@pytest.mark.slow
def test_annotations_hold(tmp_path):
    assert mypy()==''
    user = tmp_path/'user.py'
    user.write_text(mistakes)
    out = mypy(str(user))
    assert [int(o.split(':')[1]) for o in out.splitlines() if ' error: ' in o]==[7,8,9,10], out


def test_package_says_that_it_is_typed():
    data = tomllib.loads(read('pyproject.toml'))['tool']['setuptools']['package-data']
    assert 'py.typed' in data['fastai_balmix']
    assert (root/'fastai_balmix'/'py.typed').exists()
