"What the measurements share: a clock, the machine's name, and where tables go"
import os,platform,time
from pathlib import Path

import fastai
import numpy as np
import pandas as pd
import torch

def machine():
    "Cores, processor and versions"
    cpus = Path('/proc/cpuinfo')
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    model = next((o.partition(':')[2].strip() for o in lines if o.startswith('model name')), platform.processor() or platform.machine())
    return f'{os.cpu_count()} cores, {model}; Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, fastai {fastai.__version__}'

def timed(f):
    "Seconds that a call takes, and what it returns"
    start = time.perf_counter()
    res = f()
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
