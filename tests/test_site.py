"""The site: that it builds strictly, that nothing on it leads nowhere or is shown raw, that its examples run, and that
every public name has one."""
import doctest
import os
import re
import sys

import pytest
from conftest import root, warm_call

sys.path.insert(0, str(root/'docs')) # first, since others are called build as well
import api
import build as site
from crawl import faults


@pytest.mark.slow
def test_the_site_has_every_page(built):
    pages = {p.relative_to(built).as_posix() for p in built.rglob('*.html')}
    assert {p.relative_to(root/'nbs').with_suffix('.html').as_posix() for p in api.notebook_paths()} <= pages
    assert {'which_method.html', 'operating_point.html', 'mathematics.html', 'data_sets.html', 'evaluation.html',
            'speed.html', 'distributed.html', 'troubleshooting.html', 'changelog.html', 'contributing.html',
            'api/index.html', 'source/callback/mixup.html', 'gallery.html', 'files/demo.html'} <= pages


@pytest.mark.slow
def test_each_name_has_signature_parameters_source_and_example(built):
    lacking = []
    for page,names in api.all_names().items():
        html = (built/'api'/f'{page}.html').read_text(encoding='utf-8')
        parts = re.split(r'<h2 id="([^"]+)"', html)
        entries = dict(zip(parts[1::2], parts[2::2]))
        for o in names:
            text = entries[o.anchor]
            source = f"source/{o.module.replace('.', '/')}.html#__codelineno-0-{o.node.lineno}\""
            takes = not isinstance(o.node, api.ast.Assign) and api.parameters(o)
            wanted = {'a link to its source': source in text, 'an example': 'Example' in text,
                      'code': 'highlight">' in text, 'a table of parameters': '<table>' in text or not takes}
            lacking += [f'{o.module}.{o.name} without {k}' for k,there in wanted.items() if not there]
    assert not lacking


def test_each_name_has_an_example():
    examples,sessions = api.Examples(),api.doctests()
    names = [o for os_ in api.all_names().values() for o in os_]
    lacking = [f'{o.module}.{o.name}' for o in names if o.name not in sessions and not examples.find(o)]
    assert not lacking, f'no notebook shows {lacking}: add them to docs/parts/examples.md'
    there = {o.name for o in names} | {f'{o.name}.{f.name}' for o in names for f in api.methods(o)}
    assert {*sessions} <= there, 'docs/parts/examples.md has names that are not there'


def test_api_has_a_page_for_each_wing():
    wings = {p.parent.name for p in api.package.glob('*/__init__.pyi')}
    assert {*api.page_names()}==wings | {'ordinal', 'classifier'}


def test_names_that_a_wing_does_not_list_are_not_shown():
    names = api.all_names()
    stubs = [api.ast.parse(p.read_text(encoding='utf-8')) for p in api.package.glob('*/__init__.pyi')]
    listed = {a.name for t in stubs for o in t.body if isinstance(o, api.ast.ImportFrom) for a in o.names}
    for page in {*names}-{'ordinal', 'classifier'}:
        assert {o.name for o in names[page] if '.' not in o.name} <= listed
    assert {'DataLoaders.weighted', 'DataLoaders.cached'} <= {o.name for o in names['loaders']}
    assert {o.anchor for o in names['report'] if o.name.lower()=='report'}=={'report', 'report-class'}
    assert {o.anchor for o in names['metrics'] if o.name.lower()=='mcc'}=={'mcc', 'mcc-class'}


def test_each_name_of_all_is_there():
    listed = re.findall(r"'(\w+)'", (root/'fastai_balmix'/'all.py').read_text(encoding='utf-8').partition('__all__')[2])
    assert len(listed)>50 and {*listed} <= {o.name for names in api.all_names().values() for o in names}


def live(names):
    "What fastcore says of each name once it is imported: its parameters, and their comments"
    from importlib import import_module
    from inspect import signature

    from fastcore.docments import docments
    sys.path.insert(0, str(root))
    def comments(o):
        try: said = docments(o)
        except ValueError: return dict.fromkeys(signature(o).parameters) # it cannot compare a default that is an array
        return {p: (said.get(p) or '').strip() for p in signature(o).parameters}
    return {(mod,nm): comments(getattr(import_module(f'fastai_balmix.{mod}'), nm)) for mod,nm in names}


def test_parameters_are_those_that_python_sees():
    read = {}
    for o in (o for names in api.all_names().values() for o in names):
        if '.' in o.name or not (f := api._init(o.node)): continue
        read[o.module,o.name] = {p[0]: api.comments(o).get(p[0].lstrip('*'), '') for p in api._params(f)}
    assert len(read)>110
    seen = warm_call(live, [*read])
    differ = []
    for k,ours in read.items():
        theirs,named = seen[k],[p for p in ours if p[0]!='*']
        # With `**kwargs`, fastcore's `delegates` has put others in their place
        if len(named)==len(ours) and [*theirs]!=named: differ.append((k, ours, theirs))
        for p in named:
            found = theirs.get(p, 'missing')
            if found not in (None, ours[p]): differ.append((k, p, ours[p], found))
    assert not differ
    assert sum(None in o.values() for o in seen.values()) < 3


def are_properties(names):
    "Of (module, class, name) those that Python reads without a call"
    from importlib import import_module
    sys.path.insert(0, str(root))
    import fastai.vision.all as fastai
    def cls(mod, nm):
        m = import_module(f'fastai_balmix.{mod}')
        return getattr(m, nm, None) or getattr(fastai, nm)
    return [isinstance(getattr(cls(mod, c), nm, None), property) for mod,c,nm in names]


def test_properties_have_no_brackets():
    names = [o for os_ in api.all_names().values() for o in os_]
    defs = [(o, o.node, *o.name.split('.')) for o in names if '.' in o.name]
    defs += [(o, f, o.name, f.name) for o in names for f in api.methods(o)]
    is_prop = warm_call(are_properties, [(o.module, cls, nm) for o,_,cls,nm in defs])
    assert 5 < sum(is_prop) < len(defs)-20
    for (_,f,cls,nm),prop in zip(defs, is_prop, strict=True):
        said = api.signature(f, f'{cls}.{nm}')
        assert re.match(rf'property {cls}\.{nm}( ->|$)' if prop else rf'{cls}\.{nm}\(', said), said


def test_a_comment_of_a_signature_on_one_line_is_the_parameter_s():
    text = 'def f(x)->int: # An image\n    "y"\n\ndef g(\n    x, # An image\n)->int: # {its: (H,W)}, `a|b`\n    "y"\n'
    f,g = (api.Name(o.name, 'm', o, text) for o in api.ast.parse(text).body)
    assert api.comments(f)=={'x': 'An image'} and 'An image |\n| **returns**' in api.parameters(f)
    assert api.parameters(g).endswith('| &#123;its: (H,W)&#125;, <code>a&#124;b</code> |')


def test_errors_are_read_from_checks_and_from_the_table():
    names = {o.name: o for names in api.all_names().values() for o in names}
    assert {'`alpha` must be a float in the range [0, inf)', '`per_item` must be True or False',
            "`q` must be a float or one of 'instance', 'sqrt', 'class'"} <= {*api.errors(names['BalancedMixUp'])}
    assert '`tau` must be a float in the range [0, 1]' in api.errors(names['Remix'])
    assert '`profile` must be \'exp\' or \'step\'' in api.errors(names['tail_counts'])


# Markup with one mistake, and words of the sentence about it
wrong = {
    '<a href="nowhere.html">x</a>': 'not there',
    '<a href="index.html#nowhere">x</a>': 'no such part',
    '<img src="nowhere.png" alt="x">': 'not there',
    '<script src="https://cdn.example.org/x.js"></script>': 'fetches https',
    '<p>::: {.callout-note}</p>': "shows ':::'",
    '<pre>#| hide\nx</pre>': "shows '#|'",
    '<p>{{ x }}</p>': "shows '{{'",
    '<p>text {.lead}</p>': "shows '{.l",
    '<p>[x](y.md)</p>': 'shows',
    '<img src="x.png">': 'without words',
    '<table><td _K_ name:>shares</td></table>': 'words for attributes: <td _k_ name:>',
    '<p>Got \\&lt;function</p>': "shows '\\\\<'",
    '<td><code>int \\| None</code></td>': "shows '\\\\|'",
    '<code>int &amp;#124; None</code>': "shows '&#124;'",
    '<p>[<code>x</code>](/y.html)</p>': 'shows',
    '<h2>A</h2><h2>B</h2><p>x</p>': "nothing below 'A'",
    '<article><h3>A</h3></article>': "nothing below 'A'",
    '<h2>A</h2><p>x</p><h3>B</h3><h2>C</h2><p>x</p>': "nothing below 'B'"}

def test_mistakes_are_found(tmp_path):
    (tmp_path/'index.html').write_text('<h1 id="here">x</h1><a href="https://elsewhere.org">x</a><code>{{ x }}</code>')
    (tmp_path/'x.png').write_text('x')
    page = tmp_path/'page.html'
    good = ('<a href="index.html#here">x</a><a href="#own">x</a><p id="own">x</p>'
            '<img src="x.png" alt="x"><pre>x</pre>')
    page.write_text(good)
    assert not faults(tmp_path)
    for bad,words in wrong.items():
        page.write_text(good+bad)
        found = faults(tmp_path)
        assert len(found)==1 and words in found[0], (bad, found)
    page.write_text(good+'<h2>A</h2><h3>B</h3><p>x</p><h2>C</h2><img src="x.png" alt="x">'
                    '<td class="x" data-n="1" aria-label="x">x</td>')
    assert not faults(tmp_path)
    page.write_text(good)
    (tmp_path/'x.css').write_text("@font-face { src: url('https://fonts.example.org/x.woff2') }")
    assert len(faults(tmp_path))==1
    assert faults(tmp_path/'nowhere')


# What the pages say

def run_sessions(folder, name, text):
    "Run the sessions of Python in a page; what came out otherwise"
    os.chdir(folder)
    sys.path.insert(0, str(root))
    code = '\n'.join(re.findall(r'^```pycon\n(.*?)^```', text, flags=re.MULTILINE|re.DOTALL))
    said = []
    flags = doctest.ELLIPSIS|doctest.NORMALIZE_WHITESPACE|doctest.REPORT_ONLY_FIRST_FAILURE
    runner = doctest.DocTestRunner(optionflags=flags)
    res = runner.run(doctest.DocTestParser().get_doctest(code, {}, name, name, 0), out=said.append)
    return res.attempted,''.join(said)


pages = sorted([*(root/'docs'/'pages').glob('*.md'), root/'docs'/'parts'/'examples.md'])

with_sessions = [p for p in pages if '```pycon' in p.read_text(encoding='utf-8')]

@pytest.mark.thinned(1)
@pytest.mark.parametrize('page', with_sessions, ids=lambda p: p.stem)
def test_sessions_of_a_page_print_what_it_says(page, tmp_path):
    n,said = warm_call(run_sessions, str(tmp_path), page.name, page.read_text(encoding='utf-8'))
    assert n and not said, said


def test_a_session_that_prints_something_else_is_seen(tmp_path):
    n,said = warm_call(run_sessions, str(tmp_path), 'x', '```pycon\n>>> 1+1\n3\n```\n')
    assert n==1 and 'Got:\n    2' in said


@pytest.mark.parametrize('page', sorted((root/'docs'/'pages').glob('*.md')), ids=lambda p: p.stem)
def test_a_page_of_the_guide_begins_with_what_it_is_about(page):
    assert re.match(r'---\ndescription: .+\n---\n+# .+\n\n', page.read_text(encoding='utf-8'))


def test_each_block_of_python_compiles():
    for p in pages:
        text = p.read_text(encoding='utf-8')
        for o in re.findall(r'^```python\n(.*?)^```', text, flags=re.MULTILINE|re.DOTALL): compile(o, p.name, 'exec')


# The parts of the build

def test_boxes_become_admonitions():
    md = ('a\n\n::: {.callout-tip}\n## Title\n\nline\n:::\n\n::: {.callout-caution title="Oh"}\nb\n:::\n\n'
          '::: {.column}\nc\n:::\n')
    assert site.callouts(md)=='a\n\n!!! tip "Title"\n\n    line\n\n!!! warning "Oh"\n\n    b\n\nc\n'


def test_patterns_of_the_order_take_what_is_named_nowhere_else():
    nav = [{'A': ['a.md', '*z*.md']}, {'B': ['*.md']}, {'C': ['sub/*.md']}, {'D': ['none*.md']}]
    wanted = [{'A': ['a.md','yz.md']}, {'B': ['b.md']}, {'C': ['sub/c.md']}]
    assert site.resolved(nav, ['a.md', 'b.md', 'yz.md', 'sub/c.md'])==wanted


def test_links_are_rewritten_outside_of_code_only():
    md = ('[x](../../nbs/inference/prior.ipynb#a) and [`mcc`](/metrics/scores.html#mcc) [`f`](/metrics/scores.html#f) '
          '[`crt`](/classifier.html#crt) [y](https://a.b/c)\n\n'
          '```python\n[x](../../nbs/inference/prior.ipynb)\n```\n')
    res = site.relink(md, 'api/metrics.md', root/'docs'/'pages', {'metrics': {'mcc'}, 'classifier': {'crt'}})
    assert res==('[x](../inference/prior.md#a) and [`mcc`](metrics.md#mcc) `f` '
                 '[`crt`](classifier.md#crt) [y](https://a.b/c)\n\n'
                 '```python\n[x](../../nbs/inference/prior.ipynb)\n```\n')


def test_a_link_within_a_link_is_undone():
    md = ('from [[`report`](/report/page.html#report)](page.ipynb) and '
          '[a [`report`](/report/page.html#report) b](page.ipynb), [![x](https://a.b/c.svg)](https://a.b)\n')
    res = site.relink(md, 'report/card.md', root/'nbs'/'report', {'report': {'report'}})
    assert res=='from [`report`](page.md) and [a `report` b](page.md), [![x](https://a.b/c.svg)](https://a.b)\n'


def test_headings_with_nothing_below_go():
    md = ('# T\n\n## A\n\n### A1\n\n## B\n\n### B1\n\n```python\n# no heading\n```\n\n### B2\n\n'
          '## C\n\nwords\n\n## D\n')
    kept = re.findall('^#+ .*', site.without_empty_parts(md), flags=re.MULTILINE)
    assert kept==['# T','## B','### B1','# no heading','## C']
    assert site.without_empty_parts('# T\n\n## A\n\n~~~\n## B\n~~~\n')=='# T\n\n## A\n\n~~~\n## B\n~~~\n'


def test_formulas_become_mathml():
    inline,block = '<span class="arithmatex">\\(a&lt;b\\)</span>','<div class="arithmatex">\\[\\frac{1}{n}\\]</div>'
    html = site.with_formulas(f'<p>{inline}</p>{block}')
    assert html.count('<math')==2 and '>&#x0003C;<' in html and '<mfrac>' in html and '\\' not in html
    assert '<div class="formula" tabindex="0"' in html
    assert site.without_formulas('<p>Class \\(j\\) of \\(K\\)</p> \\[a^b\\]')=='<p>Class j of K</p> ab'


def test_links_without_words_go_where_lines_have_no_numbers():
    line = '<pre><a id="__codelineno-0-1" name="x" href="#__codelineno-0-1"></a>x</pre>'
    assert site.without_line_links(line)=='<pre>x</pre>'
    assert site.without_line_links('<td class="linenos">1</td>'+line).endswith(line)


def test_the_gallery_has_a_tile_for_each_page_with_a_picture(tmp_path):
    from gallery import pictured, tutorials
    from PIL import Image
    (tmp_path/'tutorials'/'images').mkdir(parents=True)
    Image.new('RGB', (1200,600)).save(tmp_path/'tutorials'/'images'/'a-2.png')
    words = '# Title\n\nWhat it is\n{ .lead }\n\n'
    first,second = '![Figure, described in the text](images/a-1.png)','![Bars](images/a-2.png)'
    (tmp_path/'tutorials'/'a.md').write_text(f'{words}{first}\n\n{second}\n')
    (tmp_path/'tutorials'/'b.md').write_text(words)
    assert pictured(first+second)[0]==('Bars', 'images/a-2.png') and len(pictured(first+second))==2
    tile,none = tutorials(tmp_path)
    assert tile.startswith('- [![Bars](images/gallery/tutorials-a-a-2.png)](tutorials/a.md)') and not none
    assert '**[Title](tutorials/a.md)**' in tile and tile.endswith('What it is')
    with Image.open(tmp_path/'images'/'gallery'/'tutorials-a-a-2.png') as img: assert img.size==(480,240)


# What the code of a page needs

def needed(sources, module='m'):
    "Code of hidden cells that a page needs, and names that come from nowhere, for cells as they are written"
    from fastcore.nbio import mk_cell, new_nb
    from unseen import unseen
    return unseen(new_nb([mk_cell(o, 'code') for o in sources]), module)


def test_hidden_code_that_seen_code_needs_is_found():
    make = 'n = 3\ndef make(k): return [join(o) for o in range(k)]'
    use = 'y = x+math.pi\ndef f(n, json=None): return [re for re in (n, json, later)]'
    code,lost = needed([
        '#| hide\nfrom os.path import *\nimport json', '#| hide\nimport re',
        '#| export\nimport math,sys\nfrom string import digits\ndef public(): return sys.path\ndef _own(): pass',
        f'#| hide\n{make}', '#| echo: false\nx = make(n)', use, '_own()', '#| hide\nlater = 1',
        'with open(nowhere) as fn: x = fn\n%time x', '#| hide\nassert y==x'])
    assert code=={0: 'from os.path import *\nimport json', 2: 'import math, sys\nfrom fastai_balmix.m import _own',
                  3: make, 4: 'x = make(n)'}
    assert lost=={'nowhere','later'}


def test_hidden_code_is_given_folded_where_it_was():
    from fastcore.nbio import mk_cell, new_nb
    full = new_nb([mk_cell(o, 'code') for o in ('#| hide\nn = 3', '1', '#| hide\nm = 4', '#| hide\nk = 5', 'n+m')])
    for i,c in enumerate(full.cells): c['id'] = f'c{i}'
    nb = new_nb([full.cells[1], full.cells[4]])
    site.with_unseen(nb, full)
    assert [c.cell_type for c in nb.cells]==['markdown','code','markdown','code']
    assert 'n = 3' in nb.cells[0].source and 'm = 4' in nb.cells[2].source
    assert '<summary>Code that the page does not show</summary>' in nb.cells[2].source


def names_from_nowhere():
    "Names by notebook that its seen code uses and no cell makes"
    sys.path[:0] = [str(root/'docs'), str(root)]
    from fastcore.nbio import read_nb
    from unseen import unseen
    return {p.relative_to(api.nbs).as_posix(): lost for p in api.notebook_paths() if (lost := unseen(read_nb(p))[1])}


def test_every_name_that_a_page_uses_comes_from_somewhere(): assert not warm_call(names_from_nowhere)


@pytest.mark.slow
def test_pages_give_what_they_need(built):
    for page,code in {'tutorials/02_does_it_help': 'make_folder', 'tutorials/05_to_the_clinic': 'write_files',
                      'datasets/splits': 'KNeighborsClassifier', 'compare/paper': 'SimpleNamespace',
                      'metrics/probabilities': 'plt'}.items():
        html = (built/f'{page}.html').read_text(encoding='utf-8')
        folded = re.findall(r'<details class="unseen">(.*?)</details>', html, flags=re.DOTALL)
        assert any(re.search(rf'\b{code}\b', re.sub('<[^>]+>', '', o)) for o in folded), page


def test_measured_tables_are_shown_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(site, 'root', tmp_path)
    md = 'a\n{% measured some %}\nwords\n{% end %}\nb\n'
    assert site.included(md)=='a\n\nb\n'
    (tmp_path/'docs'/'measured').mkdir(parents=True)
    (tmp_path/'docs'/'measured'/'some.csv').write_text('method,mcc\ninstance,1 ± 2\n')
    assert site.included(md)=='a\nwords\n\n| method | mcc |\n| --- | --- |\n| instance | 1 ± 2 |\n\nb\n'
