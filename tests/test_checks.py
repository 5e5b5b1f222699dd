"Checks and files: the words of errors beyond those that the notebook of `checks` shows, and what the two rooms import"
import subprocess
import sys

import pytest
from conftest import root

from fastai_balmix.checks import nearest


def test_names_that_are_like():
    assert nearest('mobilnet', ['mobilenet','resnet'])=="Did you mean 'mobilenet'?"
    assert nearest('ab', ['abc','abd','abe','abf']).count("'")==6 # no more than three
    assert nearest(12, [12])=="Did you mean '12'?"

def test_names_that_are_like_none():
    assert nearest('q', ['a',1])=="There are: 'a', '1'."
    assert nearest('q', range(40)).endswith("'29', ...")

@pytest.mark.parametrize('code', [
    'from fastai_balmix.checks import as_labels,check_int; check_int(1, "n", "f"); as_labels([[0],[1]][0], "f")',
    'from fastai_balmix.files import write_file; write_file("a.txt", b"x")'], ids=['checks','files'])
def test_neither_torch_nor_fastai_is_imported(code, tmp_path):
    "A command that only prints its help imports these two"
    code = f'import sys; sys.path.insert(0, {str(root)!r}); {code}; print(*{{"torch","fastai"}} & {{*sys.modules}})'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip()=='', f'{done.stdout} are imported'
