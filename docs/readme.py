"""README.md from nbs/index.ipynb, run by `make readme`: nbdev prepares the notebook, nbconvert makes it Markdown.

`nbdev-readme` would need Quarto, which pip does not install. Outputs are taken as they were saved; nothing is run."""
import re
import sys
import tempfile
from base64 import b64decode
from os import environ
from pathlib import Path

import nbformat
from fastcore.nbio import nb2str, nb_frontmatter, read_nb, write_nb
from fastcore.xtras import working_directory
from nbconvert import MarkdownExporter
from nbdev.processors import FilterDefaults

root = Path(__file__).resolve().parent.parent
figures = {'image/svg+xml':'svg', 'image/png':'png', 'image/jpeg':'jpg'}

# Outputs arrive here as Markdown, so there is one block for them
template = r'''{%- extends 'base/display_priority.j2' -%}
{%- block markdowncell -%}{{ cell.source.strip() + '\n\n' }}{%- endblock -%}
{%- block input -%}{{ cell.source + '\n\n' if cell.source }}{%- endblock -%}
{%- block data_markdown -%}{{ output.data['text/markdown'] + '\n\n' }}{%- endblock -%}'''


def process_nb(
    src, # A notebook
    dst # Where its processed copy goes
):
    "Prepare a notebook for the docs as `nbdev-proc-nbs` does"
    old = environ.get('IN_TEST')
    environ['IN_TEST'] = '1' # as nbdev sets it, so that cells which export or test do nothing
    try:
        with working_directory(root): FilterDefaults()(nb := read_nb(src))
    finally:
        if old is None: del environ['IN_TEST']
        else: environ['IN_TEST'] = old
    write_nb(nb, dst)


def _fenced(text, lang=''):
    fence = '```' if '```' not in text else '````'
    return f'{fence}{lang}\n{text}\n{fence}'


def _plain(text):
    "What a terminal would show in the end: no colours, and of a line that was written over only the last version"
    text = re.sub(r'\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])', '', text)
    text = re.sub(r'^.*\r(?!\n)', '', text, flags=re.MULTILINE)
    return '\n'.join(o.rstrip() for o in text.split('\n')).strip('\n')


def _html(text):
    "A table without its style sheet, and without the blank lines that would end it"
    text = re.sub(r'<style.*?</style>|<!--.*?-->', '', text, flags=re.DOTALL)
    words = re.sub(r'<[^>]+>', '', text).strip()
    if not words and not re.search(r'<img|<svg', text): return '' # a progress bar that has gone
    return '\n'.join(o.strip() for o in text.splitlines() if o.strip())


def _output(out, opts, save_fig):
    "One output as Markdown"
    asis = opts.get('output')=='asis'
    if out.output_type=='stream':
        if out.name=='stderr' and opts.get('warning')=='false': return ''
        text = _plain(out.text)
        return text if asis or not text else _fenced(text)
    if out.output_type=='error': return _fenced(_plain('\n'.join(out.traceback)))
    data = {k: ''.join(v) for k,v in out.data.items()}
    said = data.get('text/markdown')
    # fastprogress gives its table as HTML in a fence, and as HTML
    if said is not None and not said.startswith('```html'): return said.strip()
    for mime,ext in figures.items():
        if mime in data: return save_fig(data[mime].encode() if ext=='svg' else b64decode(data[mime]), ext)
    if 'text/html' in data: return _html(data['text/html'])
    text = _plain(data.get('text/plain', ''))
    return text if asis or not text else _fenced(text)


def to_markdown(
    path, # A notebook that went through `process_nb`
    images, # Folder that figures are written to; older figures of this notebook in it are removed
    link # The same folder as the page is to name it
)->str: # The page
    "A processed notebook as Markdown: front matter as title and lead, Quarto's options honoured, figures as files"
    path,images = Path(path),Path(images)
    nb,n = read_nb(path),0
    fm = nb_frontmatter(nb)
    for old in images.glob(f'{path.stem}-*'): old.unlink()

    def save_fig(data, ext):
        nonlocal n
        n += 1
        images.mkdir(parents=True, exist_ok=True)
        (images/f'{path.stem}-{n}.{ext}').write_bytes(data)
        return f"![{opts.get('fig-alt', '').strip(chr(34)+chr(39))}]({link}/{path.stem}-{n}.{ext})"

    for cell in nb.cells:
        cell.metadata = {}
        if cell.cell_type!='code': continue
        opts = cell.directives
        cell.remove_directives()
        shown = opts.get('include')!='false'
        outs = [_output(o, opts, save_fig) for o in cell.outputs] if shown and opts.get('output')!='false' else []
        cell.outputs = [dict(output_type='display_data', metadata={}, data={'text/markdown': o}) for o in outs if o]
        code = cell.source.strip('\n') if shown and opts.get('echo')!='false' else ''
        cell.source = _fenced(code, 'python') if code else ''
    head = [f"# {fm['title']}"] if 'title' in fm else []
    if 'description' in fm: head.append(fm['description'])
    nb.cells = [o for o in nb.cells if o.cell_type!='raw']
    md = MarkdownExporter(raw_template=template).from_notebook_node(nbformat.reads(nb2str(nb), as_version=4))[0]
    return '\n\n'.join([*head, md.strip()]) + '\n'


def _relink(md):
    "Links as they hold from the root of the repository, where there are notebooks but no pages of symbols"
    md = re.sub(r'\[(`[^`]+`)\]\([\w/.]+\.html(?:#[^)]*)?\)', r'\1', md)
    def at_root(m):
        p = (root/'nbs'/m[1]).resolve()
        return f"]({p.relative_to(root).as_posix()}{m[2] or ''})" if p.exists() else m[0]
    return re.sub(r'\]\(([^)\s#:]+)(#[^)\s]*)?\)', at_root, md)


def readme(
    index=root/'nbs'/'index.ipynb', # The notebook
    images=root/'docs'/'images' # Folder that figures are written to
)->str: # Text of README.md
    "README.md as `index` makes it"
    with tempfile.TemporaryDirectory() as d:
        dst = Path(d)/Path(index).name
        process_nb(index, dst)
        return _relink(to_markdown(dst, images, 'docs/images'))


if __name__=='__main__': (root/'README.md').write_text(readme(*sys.argv[1:]), encoding='utf-8')
