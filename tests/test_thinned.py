"""What `conftest.py` does for all tests: it chooses the fast cases of tests that are `thinned`, so that no value of a
parameter is left to the slow tests alone, and keeps from tests what a shell or CI has set for itself."""
import os
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest
from conftest import one_of_each, root


def case(**params): return SimpleNamespace(callspec=SimpleNamespace(params=params))

@pytest.mark.parametrize('sizes', [(1,), (7,), (3,5), (2,2,2), (4,1,9)], ids=str)
def test_each_value_is_in_a_fast_case_and_few_cases_are_fast(sizes):
    values = [[object() for _ in range(n)] for n in sizes]
    cases = [case(**{f'p{i}': v for i,v in enumerate(o)}) for o in product(*values)]
    fast = one_of_each(cases)
    for i,all_of_it in enumerate(values): assert {o.callspec.params[f'p{i}'] for o in fast}=={*all_of_it}
    assert len(fast)==max(sizes)

sample = '''
import os
import pytest

@pytest.mark.thinned
@pytest.mark.parametrize('b', range(4))
@pytest.mark.parametrize('a', ['x','y'])
def test_product(a, b): pass

@pytest.mark.thinned(2)
@pytest.mark.parametrize('a', [*range(8), pytest.param(8, marks=pytest.mark.slow)])
def test_row(a): pass

def test_environment(): assert 'PIP_QUIET' not in os.environ and 'COLUMNS' not in os.environ
'''

@pytest.mark.parametrize('marks,n', [('not slow', 4+2+1), ('slow', 4+7), ('not cuda', 8+9+1)])
def test_fast_and_slow_cases_are_all_cases(tmp_path, marks, n):
    (tmp_path/'conftest.py').write_text((root/'tests'/'conftest.py').read_text())
    (tmp_path/'test_sample.py').write_text(sample)
    said = subprocess.run([sys.executable,'-m','pytest','-q','-p','no:hypothesispytest','-m',marks,tmp_path], text=True,
                          capture_output=True, env=os.environ|{'PIP_QUIET':'1','COLUMNS':'40'}, cwd=tmp_path)
    assert said.returncode==0 and f'{n} passed' in said.stdout, said.stdout+said.stderr
