"Everything about the distribution that `pyproject.toml` leaves open, read from `settings.ini`."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

root = Path(__file__).parent
config = ConfigParser()
config.read(root/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
init = (root/cfg['lib_name']/'__init__.py').read_text(encoding='utf-8')

setup(
    version=re.search(r'__version__ = "(.+?)"', init)[1],
    description=cfg['description'],
    long_description=(root/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].split(),
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require={extra: cfg[f'{extra}_requirements'].split() for extra in ('dev','dicom')},
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f"{cfg['lib_name']} = {cfg['lib_name']}._modidx:d"],
    },
)
