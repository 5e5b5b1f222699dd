"What the measurements share: a clock, the machine's name, and where tables go"
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch


def machine():
    "Cores, processors and versions"
    cpus = Path('/proc/cpuinfo')
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    models = [o.partition(':')[2].strip() for o in lines if o.startswith('model name')]
    model = models[0] if models else platform.processor() or platform.machine()
    gpu = f', {torch.cuda.get_device_name()}' if torch.cuda.is_available() else ''
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    versions = ', '.join(f'{o} {version(o)}' for o in ('torch','fastai','timm','numpy','pillow'))
    return f'{cores} cores, {model}{gpu}; Python {platform.python_version()}, {versions}'

def timed(f, *args):
    "Seconds that a call takes, and what it returns"
    start = time.perf_counter()
    res = f(*args)
    return time.perf_counter()-start,res

def write_table(
    rows, # Dicts
    folder, # Where the table goes, or None for nowhere
    name # Its name
):
    "Keep figures as a CSV file, with the machine in a column of its own"
    if folder is None: return
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).assign(machine=machine()).to_csv(folder/f'{name}.csv', index=False)
