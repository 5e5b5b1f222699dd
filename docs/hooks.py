"""What mkdocs calls while it renders a page: formulas become MathML, which browsers draw without a script; what the theme leaves without a name gets one."""
import re
from html import unescape

from latex2mathml.converter import convert


def on_page_content(html, **kwargs):
    "Replace formulas as `pymdownx.arithmatex` marks them"
    html = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: convert(unescape(m[1])), html, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', lambda m: f'<div class="formula" tabindex="0" role="group" aria-label="Formula">{convert(unescape(m[1]), display="block")}</div>', html, flags=re.DOTALL)


def on_post_page(output, **kwargs):
    "Name the search for whoever hears the page"
    return output.replace('data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"')
