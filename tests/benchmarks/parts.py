"""Where the time of a comparison goes: processor seconds of each part of one call of `compare`.

    python tests/benchmarks/parts.py

| part | paid | what it is |
| --- | --- | --- |
| start | once a comparison | Python starts and imports what `compare` needs |
| store | once for data and size | images are opened, resized and kept, in all processes together |
| plan | once a comparison | hashes of files, checks, folder, table of results |
| process | a run, with `jobs` | a process of its own starts, with everything imported, until it begins to work |
| learner | a run | network, loaders, optimiser |
| loading | an epoch | batches of bytes from the store |
| augmentation | an epoch | bytes to numbers, random changes, normalisation |
| mixing | an epoch | two images and their labels become one |
| forward, loss, backward, optimiser | an epoch | the network's arithmetic |
| loop | an epoch | what is left of training: fastai's loop and callbacks |
| validation | an epoch | the selection images: loading, forward, metrics |
| checkpoint | an epoch | all that a killed run needs to resume, on disk |
| prediction | a run | selection and reported images, each with its mirror image |
| scoring | a run | the calibrator, and scores at three operating points |
| writing | a run | predictions and the record |
| rest | a run | whatever is none of these |

The comparison has one run: Balanced-MixUp 0.2 and the small network, 10 epochs, the first of three folds of 600 images,
which are files of 64 × 64 pixels at 32 (PNG), and of 512 × 512 at 64 (JPEG). It runs in a new process, with one thread.
Time is that of the processor, of all threads and of children that ended, so that other programs on the machine hardly
disturb. A part counts what none of the parts inside it has. Shown are medians over three processes. Shares are of the
whole: those of parts that are paid once shrink with more epochs, methods and folds.

`--quick` uses fewer images and epochs and one process, and proves nothing but that the script runs."""
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import wraps
from pathlib import Path

import numpy as np
from common import machine, write_table
from fastcore.script import call_parse, store_true

PAID = dict(
    start='once', store='once', plan='once', process='a run', learner='a run', loading='an epoch',
    augmentation='an epoch', mixing='an epoch', forward='an epoch', loss='an epoch', backward='an epoch',
    optimiser='an epoch', loop='an epoch', validation='an epoch', checkpoint='an epoch', prediction='a run',
    scoring='a run', writing='a run', rest='a run')
SIZES = {32:(64,'PNG'), 64:(512,'JPEG')} # at which images are trained on, and the files they come from

def processor_seconds():
    "Of this process and its children"
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

class Parts:
    "Processor seconds by the innermost part that is open; nothing is open inside a part that is whole"
    def __init__(self): self.spent,self.open,self.last = defaultdict(float),['plan'],processor_seconds()

    def charge(self):
        now = processor_seconds()
        self.spent[self.open[-1]] += now-self.last
        self.last = now

    def time(self, owner, name, part, of=None, whole=False):
        "Charge calls of a function to a part: all of them, or those whose first argument is one of them"
        func = getattr(owner, name)
        @wraps(func)
        def timed(*args, **kwargs):
            if self.within or (of is not None and not of(args[0])): return func(*args, **kwargs)
            self.charge()
            self.open.append(part)
            self.within = whole
            try: return func(*args, **kwargs)
            finally:
                self.charge()
                self.open.pop()
                self.within = False
        setattr(owner, name, timed)

    within = False # Is a part open that is whole?

def watch(parts):
    "Charge what a run of a comparison does"
    from fastai.data.transforms import IntToFloatTensor, Normalize
    from fastai.learner import Learner
    from fastai.losses import BaseLoss
    from fastai.optimizer import Optimizer
    from fasttransform import Pipeline

    from fastai_balmix.callback.checkpoint import Checkpoint
    from fastai_balmix.callback.mixup import MixedLoss
    from fastai_balmix.compare import attempts, fitting, pool
    from fastai_balmix.compare.folder import Collected
    from fastai_balmix.datasets.augment import BatchAugment
    from fastai_balmix.inference.prior import PriorCalibrator
    def of_batches(pipe): return any(isinstance(o, BatchAugment | IntToFloatTensor | Normalize) for o in pipe.fs)
    parts.time(pool, 'attempt', 'rest')
    parts.time(fitting, 'learner_of', 'learner', whole=True)
    parts.time(Learner, 'all_batches', 'loading')
    parts.time(Pipeline, '__call__', 'augmentation', of=of_batches)
    parts.time(Learner, 'one_batch', 'loop')
    parts.time(MixedLoss, 'before_batch', 'mixing')
    parts.time(MixedLoss, 'after_loss', 'mixing')
    parts.time(BaseLoss, '__call__', 'loss')
    parts.time(Learner, '_backward', 'backward')
    for owner,name in (Learner,'_step'),(Optimizer,'zero_grad'): parts.time(owner, name, 'optimiser')
    parts.time(Learner, '_do_epoch_validate', 'validation', whole=True)
    parts.time(Checkpoint, 'after_epoch', 'checkpoint')
    for name in '_predict_all','_calibration_answers': parts.time(fitting, name, 'prediction', whole=True)
    parts.time(PriorCalibrator, 'fit', 'scoring', whole=True)
    parts.time(fitting, '_scored', 'scoring', whole=True)
    for owner,name in (fitting,'_write_npz'),(fitting,'write_file'),(attempts,'write_file'):
        parts.time(owner, name, 'writing')
    for name in 'add','write': parts.time(Collected, name, 'plan', whole=True)

def network(parts):
    "The small network, whose forward pass is charged"
    from fastai_balmix.datasets.longtail import small_net
    def small(n_classes):
        model = small_net(n_classes)
        parts.time(model, 'forward', 'forward')
        return model
    return small

def measure(folder, size, epochs):
    "Compare in this process; processor seconds by part, as JSON"
    import torch
    from loading import K

    from fastai_balmix.compare import fitting, opened, plan, pool
    from fastai_balmix.datasets.sources import read_data
    spent = dict(start=processor_seconds()) # since Python began
    torch.set_num_threads(1)
    data = read_data(dict(reader='from_folder_table', folder=str(folder/'images'))).with_folds(3, seed=0)
    assert len(data.vocab)==K
    parts = Parts()
    watch(parts)
    # a network of one's own would compute with all threads
    fitting.run_threads = lambda arch: 1
    small = network(parts)
    # before fingerprints are taken, or after, where an earlier process has left them
    for o in plan,opened: parts.time(o, 'make_store', 'store', whole=True)
    with tempfile.TemporaryDirectory() as out:
        plan.compare(data, 'balmix_0.2', small, folds=[1], epochs=epochs, out=Path(out)/'out', cache=Path(out)/'store',
                     show=False, size=size, pretrained=False)
    parts.charge()
    with pool.process_pool(1) as processes: spent['process'] = processes.submit(time.process_time).result()
    print(json.dumps(spent | parts.spent))

def write_images(folder, n, side, kind):
    "Files of ten classes, in a folder for each"
    from loading import write_data
    data = write_data(folder/'all', n, side, side, format=kind, **(dict(quality=90) if kind=='JPEG' else {}))
    for i,path in enumerate(data.df.path):
        label = str(i%len(data.vocab)) # how rare a class is does not matter to speed
        (folder/'images'/label).mkdir(parents=True, exist_ok=True)
        (folder/'all'/path).rename(folder/'images'/label/path)

def medians(folder, size, epochs, n):
    "Processor seconds by part, over `n` processes"
    command = [sys.executable, __file__, '--measured', folder, '--size', str(size), '--epochs', str(epochs)]
    found = []
    for _ in range(n):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode: sys.exit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {part: float(np.median([o.get(part, 0) for o in found])) for part in PAID}

@call_parse
def main(
    quick:store_true=False, # Fewer images and epochs, one process: does the script run?
    measured:Path=None, # A folder with images, to be compared in this process
    size:int=32, # Size at which they are trained on
    epochs:int=10, # Epochs of the run
    repeats:int=3, # Processes
    out:Path=None # Folder for `parts.csv`. Default: nothing is written.
):
    "Processor seconds of the parts of a comparison"
    if measured: return measure(measured, size, epochs)
    print(machine())
    n,rows = 600,[]
    if quick: n,epochs,repeats = 130,2,1
    for at,(side,kind) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), n, side, kind)
            found = medians(folder, at, epochs, repeats)
        total = sum(v for k,v in found.items() if k!='process') # the run has none of its own here
        for part,seconds in found.items():
            share = None if part=='process' else round(seconds/total, 4)
            rows.append(dict(size=at, files=f'{kind} of {side}', part=part, paid=PAID[part], cpu=round(seconds, 4),
                             share=share, images=n, epochs=epochs, repetitions=repeats))
            shown = '' if share is None else f'{share:8.1%}'
            print(f'{at:3} {part:14}{PAID[part]:10}{seconds:8.3f} s{shown}', flush=True)
    write_table(rows, out, 'parts')
