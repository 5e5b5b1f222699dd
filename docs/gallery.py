"""The gallery of the site: pictures of the tutorials and figures, made smaller, from the pages that show them; and the
report of the demonstration, which is trained once and kept in `build/demo`."""
import re

from PIL import Image

width = 480 # of a small picture, in pixels
lead = """Reports, tutorials and figures, as pictures. Each leads to the page that makes it.
{ .lead }

## A report

[The report of the demonstration](files/demo.html): three methods on handwritten digits, compared on three folds. It is
one file that fetches nothing. [`report`](report/page.md) makes such a page of your comparison or your network.

<iframe class="report" src="files/demo.html" title="The report of the demonstration" loading="lazy"></iframe>"""


def pictured(text):
    "(words, address) of the pictures on a page, those whose words were written for them first"
    found = re.findall(r'!\[([^\]]*)\]\((images/[^)]+\.png)\)', text)
    return sorted(found, key=lambda o: o[0].startswith('Figure'))


def tile(pages, page, link, title, said, text):
    "An entry of the gallery with a small picture of the first figure in `text`, a piece of `page`; '' without one"
    if not (found := pictured(text)): return ''
    words,address = found[0]
    src = (pages/page).parent/address
    small = pages/'images'/'gallery'/f"{page.replace('/', '-').removesuffix('.md')}-{src.name}"
    small.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(src) as img:
        img = img.convert('RGB')
        img.thumbnail((width, width))
        img.save(small)
    return f'- [![{words}](images/gallery/{small.name})]({link})\n\n    **[{title}]({link})**\n\n    {said}'


def tutorials(pages):
    "Tiles of the tutorials"
    for p in sorted((pages/'tutorials').glob('*.md')):
        text = p.read_text(encoding='utf-8')
        title,said = re.search(r'^# (.*)\n+(.*)$', text, flags=re.MULTILINE).groups()
        page = f'tutorials/{p.name}'
        yield tile(pages, page, page, title, said, text)


def figures(pages, names):
    "Tiles of the functions whose example draws something"
    for mod,public in names.items():
        page = f'api/{mod}.md'
        parts = re.split(r'^## `([\w.]+)`', (pages/page).read_text(encoding='utf-8'), flags=re.MULTILINE)
        texts = dict(zip(parts[1::2], parts[2::2]))
        for o in public:
            yield tile(pages, page, f'{page}#{o.anchor}', f'`{o.name}`', o.doc.partition('\n')[0], texts[o.name])


def gallery(pages, names):
    "The page, for the pages in a folder and the public names by page"
    def part(title, tiles):
        return f'## {title}\n\n<div class="gallery" markdown>\n\n' + '\n\n'.join(filter(None, tiles)) + '\n\n</div>'
    return '\n\n'.join(['# Gallery', lead, part('Tutorials', tutorials(pages)),
                        part('Figures', figures(pages, names))]) + '\n'


def demo_report(folder, page):
    "Write the report of a short demonstration; what is in `folder` already is not trained again"
    import torch

    from fastai_balmix.compare.plan import compare
    from fastai_balmix.demo import demo_settings
    from fastai_balmix.report.page import report
    page.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1) # quicker with networks as small as these
    compare(out=folder, show=False, **demo_settings(quick=True))
    report(folder, page)
