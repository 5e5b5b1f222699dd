"""docs/modes.md from the lists in tests/test_modes.py: in which modes, with which loaders and networks BalancedMixUp
was run, and how that was checked.

Run as `python docs/modes.py`. A test compares the page with the lists."""
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
places = dict(suite='suite', slow='slow tests', cuda='needs a GPU; not run by us')

intro = '''# Modes, loaders and networks

In which modes of fastai, with which loaders and which networks `BalancedMixUp` was run, and how each was checked.

*Same steps* means: a plain fastai fit in the same mode, on batches mixed by hand from the same images and with shares
of classes as labels, has the same parameters and batch statistics after every step, to rounding. Every mode is run
twice: with one λ for each batch on plain loaders, and with a λ for each pair on loaders made by
`dls.weighted('sqrt').cached('10MB')`. Every loader is run with either λ, and must bring the items of a plain epoch in
its order.

*suite*: run on a CPU by `pytest`. *slow tests*: run on a CPU by `pytest -m slow`. What needs a GPU is marked `cuda`,
run by `pytest -m cuda`, and was **not run by us**.
'''

end = '''## Not run

GPUs of any make, Apple's MPS among them; `to_non_native_fp16`; `torch.compile`; data on a GPU before it is batched;
learners other than for images.
'''


def table(rows):
    "Rows as Markdown"
    lines = [f'| {o.name} | {o.how} | {places[o.where]} |' for o in rows]
    return '\n'.join(['| | how it is checked | where |', '| --- | --- | --- |', *lines])


def page(
    sections # Title and rows of each
)->str:
    "Text of docs/modes.md"
    return '\n'.join([intro, *(f'## {title}\n\n{lead}{table(rows)}\n' for title,lead,rows in sections), end])


if __name__=='__main__':
    sys.path.insert(0, str(root/'tests'))
    from test_modes import sections
    (root/'docs'/'modes.md').write_text(page(sections), encoding='utf-8')
