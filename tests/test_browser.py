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
             source='source/callback/mixup.html', faults='troubleshooting.html', changes='changelog.html')


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


def test_search_finds_the_callback(address, visit):
    page = visit(f'{address}/index.html')
    page.keyboard.press('/')
    page.locator('input.md-search__input').type('BalancedMixUp')
    link = page.locator('.md-search-result__link[href*="api/callback.html"]').first
    link.wait_for()
    link.click()
    page.wait_for_url('**/api/callback.html*')
    page.locator('#balancedmixup').wait_for()
    assert not page.complaints and not foreign(page, address)


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


def test_complaints_are_seen(address, visit, built):
    bad = '<!doctype html><title>x</title><img src="nowhere.png"><p style="width:4000px">x</p>'
    (built/'bad.html').write_text(bad+'<script>throw Error("oh"); </script>')
    try:
        page = visit(f'{address}/bad.html')
        assert any('oh' in o for o in page.complaints) and any('404' in o for o in page.complaints)
        assert sideways(page) > 0 and broken_images(page) and barriers(page)
    finally: (built/'bad.html').unlink()


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
    table = page.locator('table.sortable:visible').filter(has_text='instance').first
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
all_have_run = """() => {
    const cells = [...document.querySelectorAll('.jp-CodeCell')];
    const numbers = cells.map(o => o.querySelector('.jp-InputPrompt')?.textContent ?? '');
    const idle = '[data-status=idle], .jp-Notebook-ExecutionIndicator[data-status=idle]';
    return cells.length > 3 && numbers.every(o => /\\[\\d+\\]/.test(o)) && document.querySelector(idle) }"""


def test_a_tutorial_runs_in_jupyterlab(visit, tmp_path):
    nb = root/'nbs'/'tutorials'/'01_first_fit.ipynb'
    shutil.copy(nb, tmp_path)
    with jupyterlab(tmp_path) as (url,token):
        page = visit(f'{url}/lab/tree/{nb.name}?token={token}&reset', widths['wide'], 1000)
        page.locator('.jp-Notebook .jp-Cell').first.wait_for()
        # A choice of kernel, where the notebook's is not known by name
        choose = page.locator('.jp-Dialog button.jp-mod-accept')
        page.wait_for_timeout(1000)
        if choose.is_visible(): choose.click()
        page.locator('.jp-MenuBar-item, .lm-MenuBar-item').filter(has_text=re.compile('^Kernel$')).click()
        page.locator('.lm-Menu-item').filter(has_text='Restart Kernel and Run All Cells').click()
        page.locator('.jp-Dialog button.jp-mod-accept').click()
        page.wait_for_function(all_have_run, timeout=900_000)
        shown = page.locator('.jp-OutputArea-output')
        assert page.locator('.jp-OutputArea-output img').count() > 2 # figures
        assert page.locator('.jp-OutputArea-output table').count() > 1 # tables, and what progress bars leave behind
        stderr = page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"]')
        assert not stderr.filter(has_text='Traceback').count()
        assert not page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').count()
        assert shown.count() > 5
