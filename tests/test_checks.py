"The words of errors beyond those that the notebook of `checks` shows"
from fastai_balmix.checks import nearest


def test_names_that_are_like():
    assert nearest('mobilnet', ['mobilenet','resnet'])=="Did you mean 'mobilenet'?"
    assert nearest('ab', ['abc','abd','abe','abf']).count("'")==6 # no more than three
    assert nearest(12, [12])=="Did you mean '12'?"

def test_names_that_are_like_none():
    assert nearest('q', ['a',1])=="There are: 'a', '1'."
    assert nearest('q', range(40)).endswith("'29', ...")
