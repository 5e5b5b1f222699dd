"""docs/modes.md from the lists in tests/test_modes.py: in which modes, with which loaders and networks BalancedMixUp
was run, and how that was checked.

Run as `python docs/modes.py`. A test compares the page with the lists."""
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
places = dict(suite='suite', slow='slow tests', cuda='needs a GPU; not run by us')

intro = '''# Modes, loaders and networks

The modes of fastai, loaders and networks with which `BalancedMixUp` was run, and how each was checked.

*Same steps* compares with a plain fastai fit in the same mode. Its batches are mixed by hand from the same images, with
class shares as labels. Parameters and batch statistics must be the same after every step, up to rounding. Every mode is
run twice. The first run has one λ for each batch and plain loaders. The second has a λ for each pair and loaders from
`dls.weighted('sqrt').cached('10MB')`. Every loader is run with both kinds of λ, and must return the items of a plain
epoch in its order.

*suite*: run on a CPU by `pytest`. *slow tests*: run on a CPU by `pytest -m slow`. Tests that need a GPU are marked
`cuda`, run by `pytest -m cuda`, and were **not run by us**.
'''

end = '''## Not run

GPUs of any vendor, including Apple's MPS; `to_non_native_fp16`; `torch.compile`; data on a GPU before it is batched;
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
