"""What people see, in a real browser without a window: the site, the report, and a notebook in JupyterLab.

These tests need Debian's package chromium, and Playwright, which drives it. Without a browser they are skipped."""
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from conftest import root, warm_call
from toys import free_port

pytestmark = pytest.mark.slow

widths = {'phone':390, 'laptop':1280, 'wide':1920}
kinds = dict(start='index.html', notebook='tutorials/01_first_fit.html', pitfalls='tutorials/pitfalls.html',
             prose='mathematics.html', table='which_method.html', api='api/callback.html', names='api/index.html',
             source='source/callback/mixup.html', gallery='gallery.html', faults='troubleshooting.html',
             changes='changelog.html')


# The browser

@pytest.fixture(scope='module')
def browser():
    sync = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed')
    path = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if path is None: pytest.skip('there is no Chromium: install the Debian package chromium')
    with sync.sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-gpu'])
        yield b
        b.close()


@pytest.fixture
def visit(browser):
    "Function that opens a page and remembers what it complains of, what it fetches, and its dialogs"
    contexts = []
    def opened(url, width=1280, height=900, **kwargs):
        context = browser.new_context(viewport=dict(width=width, height=height), reduced_motion='reduce', **kwargs)
        contexts.append(context)
        context.set_default_timeout(120_000) # a busy machine is no fault of the page
        page = context.new_page()
        page.complaints,page.fetched,page.dialogs = [],[],[]
        page.on('console', lambda m: page.complaints.append(m.text) if m.type in ('error','warning') else None)
        page.on('pageerror', lambda e: page.complaints.append(str(e)))
        page.on('request', lambda r: page.fetched.append(r.url))
        page.on('response', lambda r: page.complaints.append(f'{r.status} {r.url}') if r.status>=400 else None)
        page.on('dialog', lambda d: (page.dialogs.append(d.message), d.dismiss()))
        page.goto(url)
        page.wait_for_load_state('networkidle')
        return page
    yield opened
    for c in contexts: c.close()


@contextmanager
def served(folder):
    "Address of a server of the files in `folder`"
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope='module')
def address(built):
    with served(built) as url: yield url


undecodable = """Promise.all([...document.images].map(o => {
    o.loading = 'eager';
    return o.decode().then(() => '', () => o.src.slice(0, 99))
}))"""

def sideways(page):
    return page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')

def broken_images(page): return [o for o in page.evaluate(undecodable) if o]

def foreign(page, url):
    own = 'data','blob'
    return [o for o in page.fetched if urlsplit(o).scheme not in own and not o.startswith(url)]

def barriers(page):
    "What axe finds that keeps somebody from using the page"
    from axe_playwright_python.sync_playwright import Axe
    found = Axe().run(page).response['violations']
    grave = [o for o in found if o['impact'] in ('serious','critical')]
    return [f"{o['id']}: {n['target']} {n['failureSummary']}" for o in grave for n in o['nodes'][:3]]


# The site

@pytest.mark.parametrize('width', widths)
@pytest.mark.parametrize('kind', kinds)
def test_page_renders(address, visit, kind, width):
    page = visit(f'{address}/{kinds[kind]}', widths[width])
    assert page.locator('h1').count()==1 and page.locator('h1').is_visible()
    assert not page.complaints
    assert not foreign(page, address)
    assert sideways(page) <= 0
    assert not broken_images(page)


@pytest.mark.parametrize('scheme', ['light','dark'])
@pytest.mark.parametrize('kind', kinds)
def test_page_has_no_barrier(address, visit, kind, scheme):
    page = visit(f'{address}/{kinds[kind]}', color_scheme=scheme)
    shown = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
    assert shown==dict(light='default', dark='slate')[scheme]
    assert not barriers(page)


def test_page_has_no_barrier_on_a_phone(address, visit):
    for kind in 'start','api','table': assert not barriers(visit(f'{address}/{kinds[kind]}', widths['phone']))


def search(page, words):
    "Type `words` into the search of a page, and go to what it finds in the API of callbacks"
    page.keyboard.press('/')
    field = page.get_by_role('combobox', name='Search')
    field.wait_for()
    field.press_sequentially(words, delay=30)
    link = page.locator('a[href*="api/callback.html?h="]').first
    link.wait_for()
    assert field.input_value()==words
    link.click()
    page.wait_for_url('**/api/callback.html*')
    page.locator('#balancedmixup').wait_for()


def test_search_finds_the_callback(address, visit):
    page = visit(f'{address}/index.html')
    search(page, 'BalancedMixUp')
    assert not page.complaints and not foreign(page, address)


def test_search_finds_the_callback_without_a_server(built, visit):
    for start in 'index.html','tutorials/01_first_fit.html':
        page = visit((built/start).as_uri())
        search(page, 'BalancedMixUp')
        assert not page.complaints and not foreign(page, 'file://')


def test_the_gallery_shows_pictures_and_leads_to_a_report(address, visit):
    page = visit(f'{address}/gallery.html')
    tiles = page.locator('.gallery li')
    assert tiles.count() > 20 and tiles.locator('img').count()==tiles.count()
    assert not broken_images(page)
    assert page.frame_locator('iframe.report').locator('h1').count()==1
    page.get_by_role('link', name='The report of the demonstration').click()
    page.wait_for_url('**/files/demo.html')
    assert page.locator('h1').is_visible() and not page.complaints


def test_a_formula_is_drawn(address, visit):
    page = visit(f'{address}/mathematics.html')
    assert page.locator('math').count() > 10
    box = page.locator('math[display=block]').first.bounding_box()
    assert box['height'] > 30 and box['width'] > 60 # a fraction, not a line of text


def test_lines_of_source_stand_beside_their_numbers(address, visit):
    line = '#__codelineno-0-60'
    page = visit(f'{address}/source/callback/mixup.html{line}')
    line,number = (page.locator(o).bounding_box() for o in (line, f'.linenos a[href="{line}"]'))
    assert abs(line['y']-number['y']) < 6


def test_complaints_are_seen(visit, tmp_path):
    bad = '<!doctype html><title>x</title><img src="nowhere.png"><p style="width:4000px">x</p>'
    (tmp_path/'bad.html').write_text(bad+'<script>throw Error("oh"); </script>')
    with served(tmp_path) as address:
        page = visit(f'{address}/bad.html')
        assert any('oh' in o for o in page.complaints) and any('404' in o for o in page.complaints)
        assert sideways(page) > 0 and broken_images(page) and barriers(page)


# The report

hostile = '<img src=x onerror=alert(1)>', '"><svg onload=alert(2)>'

def make_report(folder):
    "A small comparison on images whose classes have hostile names, and its report"
    import numpy as np
    from PIL import Image

    from fastai_balmix import datasets
    from fastai_balmix.compare import compare
    from fastai_balmix.report import report
    os.chdir(folder)
    rng = np.random.default_rng(0)
    for k,name in enumerate(hostile):
        (Path('images')/name).mkdir(parents=True)
        for i in range(24-12*k):
            img = Image.fromarray(rng.integers(0, 255, (8,8,3), dtype=np.uint8))
            img.save(Path('images')/name/f'p{k}{i}_1.png')
    d = datasets.from_folder_table('images', group=r'(p\d+)_')
    recipe = dict(archs='small', epochs=1, size=8, bs=8, lr=.05, augment='none', pretrained=False, tta=False)
    compare(d.with_folds(2), ['instance','class'], out='results', **recipe)
    report('results', out='report.html')


@pytest.fixture(scope='module')
def report_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    warm_call(make_report, str(folder))
    return folder/'report.html'


def test_report_opens_from_disk(report_file, visit):
    for width in widths.values():
        page = visit(report_file.as_uri(), width)
        assert page.title() and page.evaluate('document.documentElement.lang') and page.locator('main').count()==1
        assert not page.complaints and not broken_images(page)
        assert not foreign(page, 'file://')
        assert sideways(page) <= 0


def test_report_sorts(report_file, visit):
    page = visit(report_file.as_uri())
    table = page.locator('table.sortable:visible').filter(has_text='Plain sampling').first
    first = table.locator('th[aria-sort]').first
    rows = table.locator('tbody tr')
    def column(): return rows.evaluate_all('rows => rows.map(o => o.cells[0].textContent.trim())')
    seen = {}
    for _ in range(2):
        first.locator('button').click()
        seen[first.get_attribute('aria-sort')] = column()
    assert {*seen}=={'ascending','descending'}
    up = seen['ascending']
    assert len({*up})>1 and up==seen['descending'][::-1]==sorted(up, key=str.casefold)


def test_hostile_names_stay_text(report_file, visit):
    page = visit(report_file.as_uri())
    assert not page.dialogs and not page.complaints
    for o in hostile: assert o in page.locator('main').inner_text()


@pytest.mark.parametrize('scheme', ['light','dark'])
def test_report_has_no_barrier(report_file, visit, scheme):
    assert not barriers(visit(report_file.as_uri(), color_scheme=scheme))


lesions = 'nevus','keratosis','basal cell carcinoma','dermatofibroma'
settings = 'data: given in Python\ntraining:\n'+''.join(f'  field_{i}: {i}\n' for i in range(30))

def made_names(k):
    "Names of classes: short ones, and many whose beginnings and ends are the same"
    return [*lesions[:k]] if k<=4 else [f'ulcerative-colitis-grade-{i}-of-the-lower-part' for i in range(k)]

def make_reports(folder):
    "Reports of invented comparisons of 2, 4, 23 and 100 classes"
    from made import write_results

    from fastai_balmix.report import report
    methods = [('instance',1.8),('sqrt',2.2),('balmix_0.2',1.9)]
    for k in class_numbers:
        res = write_results(Path(folder)/f'results{k}', made_names(k), methods=methods, folds=(1,2,3,4,5),
                            n=max(200, 6*k), settings=settings)
        (Path(folder)/f'{k}.html').write_text(report(res, None).html())


class_numbers = 2,4,23,100

@pytest.fixture(scope='module')
def made_reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp('made')
    warm_call(make_reports, str(folder), timeout=900)
    return folder


# Pairs of texts of one figure, or headings of one table, that lie on each other
overlaps = """() => {
    const found = [];
    for (const whole of document.querySelectorAll('svg, thead tr')) {
        const texts = [...whole.querySelectorAll('text, th button')].filter(o => o.textContent.trim());
        // a line of text is less high than its box
        const boxes = texts.map(o => {
            const {left, right, top, bottom} = o.getBoundingClientRect();
            const x = right-left < bottom-top ? .15*(right-left) : 0, y = x ? 0 : .15*(bottom-top);
            return {left: left+x, right: right-x, top: top+y, bottom: bottom-y} });
        boxes.forEach((a, i) => boxes.slice(0, i).forEach((b, j) => {
            const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (width > 1 && height > 1) found.push(`${texts[i].textContent} / ${texts[j].textContent}`);
        }));
    }
    return found }"""

# Names that stand twice at one side of a figure, one below the other; matrices have an axis each
twice = """() => [...document.querySelectorAll('section:not(#taken) svg')].flatMap(svg => {
    const seen = new Set();
    const names = [...svg.querySelectorAll('text')].filter(o => /[a-z]{4}/.test(o.textContent));
    return names.filter(o => {
        const box = o.getBoundingClientRect();
        const key = `${o.textContent} ${Math.round(box.right)}`;
        const again = seen.has(key) && !/images?$/.test(o.textContent);
        seen.add(key);
        return again }).map(o => o.textContent) })"""

unfolded = "document.querySelectorAll('details').forEach(o => o.open = true)"

@pytest.mark.parametrize('k', class_numbers)
def test_the_head_of_a_report_is_there(made_reports, visit, k):
    page = visit((made_reports/f'{k}.html').as_uri())
    assert page.locator('.card:visible').count()==4 and page.locator('.verdict').is_visible()
    assert page.locator('.two svg:visible').count()==4
    for o in page.locator('.two section').all(): assert o.locator('.say').inner_text().strip().endswith('.')
    tops = {round(o.bounding_box()['y']) for o in page.locator('.card').all()}
    assert len(tops)==1 # one row
    assert not page.complaints


@pytest.mark.parametrize('width', [360,768,1280])
@pytest.mark.parametrize('k', class_numbers)
def test_nothing_of_a_report_lies_on_another(made_reports, visit, k, width):
    page = visit((made_reports/f'{k}.html').as_uri(), width)
    page.evaluate(unfolded)
    assert sideways(page) <= 0
    assert not page.evaluate(overlaps)
    assert not page.evaluate(twice)


# Pixels of the page for each of a figure's points
scales = """() => [...document.querySelectorAll('figure svg')].map(o => {
    const shown = o.getBoundingClientRect(), own = o.viewBox.baseVal;
    return Math.min(shown.width/own.width, shown.height/own.height) })"""

@pytest.mark.parametrize('k', class_numbers)
def test_a_report_is_printed_on_a_few_pages(made_reports, visit, k):
    page = visit((made_reports/f'{k}.html').as_uri())
    pdf = page.pdf(format='A4', prefer_css_page_size=True)
    n = len(re.findall(rb'/Type\s*/Page[^s]', pdf))
    assert 3<n<=(8 if k<=4 else 11)
    assert not page.locator('details.part[open]').count() # as before
    page.emulate_media(media='print')
    page.set_viewport_size(dict(width=696, height=1000))
    page.evaluate("document.querySelectorAll('details.part').forEach(o => o.open = true)")
    assert sideways(page) <= 0
    assert min(page.evaluate(scales)) > .65 # letters of 8 points are printed as 4 and more


@pytest.mark.parametrize('scheme', ['light','dark'])
@pytest.mark.parametrize('k', class_numbers)
def test_a_report_of_any_number_of_classes_has_no_barrier(made_reports, visit, k, scheme):
    page = visit((made_reports/f'{k}.html').as_uri(), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details.part').forEach(o => o.open = true)")
    assert not barriers(page)


def test_contents_mark_what_is_read_and_unfold_what_is_asked_for(made_reports, visit):
    page = visit((made_reports/'4.html').as_uri())
    def here(): return page.locator('nav a[aria-current]').all_inner_texts()
    assert here()==['Summary']
    page.locator('nav a', has_text='Training').click()
    page.wait_for_function("document.querySelector('#training details').open")
    page.wait_for_timeout(200)
    assert here()==['Training'] and page.locator('#training figure').first.is_visible()
    assert page.locator('nav').bounding_box()['y']==0 # it stays at the top
    assert visit((made_reports/'4.html').as_uri()+'#made').locator('#made table').is_visible()


right_ends = "list => list.map(o => o.getBoundingClientRect().right)"

def test_titles_and_heads_of_tables_are_whole(made_reports, visit):
    page = visit((made_reports/'4.html').as_uri(), 360)
    page.evaluate(unfolded)
    assert max(page.locator('caption:visible').evaluate_all(right_ends))<=360
    page = visit((made_reports/'4.html').as_uri())
    heads = page.locator('#scores thead button')
    assert heads.filter(has_text='macro-F1').bounding_box()['height']<1.6*heads.first.bounding_box()['height']


def test_a_table_keeps_its_first_column_in_sight(made_reports, visit):
    page = visit((made_reports/'4.html').as_uri(), 360)
    page.evaluate("document.querySelector('#scores .wide').scrollLeft = 200")
    left = page.locator('#scores tbody th').first.bounding_box()['x']
    assert page.evaluate("document.querySelector('#scores .wide').scrollLeft")>0 and abs(left-16)<3


# JupyterLab

@contextmanager
def jupyterlab(folder):
    "Address, with its token, of a JupyterLab on the notebooks in `folder`; ended whatever happens, with its kernels"
    port,token = free_port(),secrets.token_hex(8)
    folders = dict(JUPYTER_CONFIG_DIR='.config', JUPYTER_DATA_DIR='.data', JUPYTER_RUNTIME_DIR='.runtime',
                   IPYTHONDIR='.ipython')
    env = os.environ | {k: str(folder/v) for k,v in folders.items()} | dict(PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    # All cells are to be in the page, not only those in view
    setting = folder/'.config'/'lab'/'user-settings'/'@jupyterlab'/'notebook-extension'/'tracker.jupyterlab-settings'
    setting.parent.mkdir(parents=True)
    setting.write_text('{"windowingMode": "none"}')
    log = (folder/'jupyter.log').open('w')
    cmd = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}',
           '--ServerApp.port_retries=0', f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={folder}',
           '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    p = subprocess.Popen(cmd, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.time()+300
        while True:
            try:
                urlopen(f'http://127.0.0.1:{port}/api?token={token}', timeout=5).close()
                break
            except OSError:
                if p.poll() is not None or time.time()>until:
                    raise RuntimeError((folder/'jupyter.log').read_text()[-3000:]) from None
                time.sleep(.5)
        yield f'http://127.0.0.1:{port}',token
    finally:
        with suppress(ProcessLookupError): os.killpg(p.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired): p.wait(20)
        # Kernels that outlived their server
        with suppress(ProcessLookupError): os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        log.close()


# The last of a notebook's cells of code has a number once all have run
# Of a cell that is collapsed, no number is shown
all_have_run = """() => {
    const cells = [...document.querySelectorAll('.jp-CodeCell')];
    const open = cells.filter(o => !o.querySelector(".jp-InputPlaceholder"));
    const numbers = open.map(o => o.querySelector('.jp-InputPrompt')?.textContent ?? '');
    const idle = '[data-status=idle], .jp-Notebook-ExecutionIndicator[data-status=idle]';
    return cells.length > 3 && numbers.every(o => /\\[\\d+\\]/.test(o)) && document.querySelector(idle) }"""


# How many bars of progress were in sight at once, at most
count_bars = """() => {
    window.bars = 0;
    const count = () => window.bars = Math.max(window.bars,
        document.querySelectorAll('.jp-OutputArea-output progress').length);
    new MutationObserver(count).observe(document.body, {childList: true, subtree: true}) }"""


some_are_run = """() => {
    const numbers = [...document.querySelectorAll('.jp-InputPrompt')].map(o => o.textContent);
    return numbers.some(o => /\\[(\\*|\\d+)\\]/.test(o)) }"""

def run_all(page, tries=60):
    """Choose Run All Cells until it is done: JupyterLab may ask for the kernel at any time, and does nothing where the
    kernel has only just started"""
    from playwright.sync_api import TimeoutError as TooLate
    asked = page.locator('.jp-Dialog button.jp-mod-accept').first
    for _ in range(tries):
        with suppress(TooLate):
            if asked.is_visible(): asked.click(timeout=5000)
            page.locator('.lm-MenuBar-item').filter(has_text=re.compile('^Run$')).click(timeout=5000)
            page.locator('.lm-Menu-item').filter(has_text=re.compile('^Run All Cells$')).click(timeout=5000)
            return page.wait_for_function(some_are_run, timeout=5000)
    raise AssertionError('no cell was run')


def test_a_tutorial_runs_in_jupyterlab(visit, tmp_path):
    nb = root/'nbs'/'tutorials'/'01_first_fit.ipynb'
    shutil.copy(nb, tmp_path)
    with jupyterlab(tmp_path) as (url,token):
        page = visit(f'{url}/lab/tree/{nb.name}?token={token}&reset', widths['wide'], 1000)
        page.locator('.jp-Notebook .jp-Cell').first.wait_for()
        page.evaluate(count_bars)
        run_all(page)
        page.wait_for_function(all_have_run, timeout=1000*600)
        assert page.evaluate('window.bars') > 0
        hidden = page.locator('.jp-CodeCell .jp-InputPlaceholder')
        assert hidden.count() > 0 # cells that the page of the site hides
        shown = page.locator('.jp-OutputArea-output')
        assert page.locator('.jp-OutputArea-output img').count() > 2 # figures
        assert page.locator('.jp-OutputArea-output table').count() > 1 # tables, and what progress bars leave behind
        stderr = page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"]')
        assert not stderr.filter(has_text='Traceback').count()
        assert not page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').count()
        assert shown.count() > 5
