"""What half precision saves on the CPU: epochs of a network in bfloat16 against the same in float32.

    python tests/benchmarks/arithmetic.py

| row | work | measured | against | aim |
| --- | --- | --- | --- | --- |
| a | MobileNetV2 at 224, plain | bf16 | float32 | 1.00 |
| b | MobileNetV2 at 224, plain | bf16, channels last | float32 | none |
| c | MobileNetV2 at 224 | Balanced-MixUp 0.2 in bf16 | plain in bf16 | 1.05 |

Images lie in memory as tensors, so that the network is what is measured. Precision and order of channels are set as
`compare` sets them for `amp='bf16'` and `channels_last=True`, on the timm network `mobilenetv2_100` without weights.
Variants take turns, one epoch of training each; the head of `epochs.py` says how, and what *work* is. The machine's
processor must have bfloat16 in hardware (`avx512_bf16` or `amx_bf16`), which the script looks up; without it, bfloat16
is imitated, and the script ends.

`--quick` uses few images of 32 pixels, proves nothing but that the script runs, and asks no processor. The script ends
with an error where an aim is missed."""
import sys
from pathlib import Path

import numpy as np
from common import machine, write_table
from epochs import Fit, even, memory_loaders, mobilenet, rounds
from fastcore.script import call_parse, store_true

from fastai_balmix.compare.arithmetic import set_arithmetic


def has_bf16():
    "Has the processor bfloat16? None where the system does not tell"
    cpus = Path('/proc/cpuinfo')
    if not cpus.exists(): return None
    return bool({'avx512_bf16','amx_bf16'} & {*cpus.read_text().split()})

class Row:
    "A ratio of times of two variants"
    def __init__(self, name, measured, against, secs, target=None):
        self.name,self.measured,self.against,self.target = name,measured,against,target
        ratios,work = secs[measured]/secs[against]
        self.ratio,self.low,self.high,self.cpu = np.median(ratios),ratios.min(),ratios.max(),np.median(work)
        self.repetitions,self.seconds = len(ratios),np.median(secs[against][0])

    @property
    def missed(self): return self.target is not None and self.ratio>self.target

    def row(self):
        nums = {k: round(float(getattr(self, k)), 4) for k in ('ratio','low','high','cpu')}
        return dict(row=self.name, measured=self.measured, against=self.against, **nums, target=self.target,
                    repetitions=self.repetitions)

    def __str__(self):
        aim = '' if self.target is None else f", aim {self.target:.2f} {'MISSED' if self.missed else 'met'}"
        return (f'{self.name}  {self.measured} against {self.against}: {self.ratio:.3f} ({self.low:.3f} to '
                f'{self.high:.3f}, {self.repetitions} rounds){aim}; work {self.cpu:.3f} ({self.seconds:.2f} s)')

def fit(n, size, bs, mix=False, **arithmetic):
    "An open fit of MobileNetV2 on images in memory"
    res = Fit(memory_loaders(n, size, bs), mobilenet, even() if mix else None)
    set_arithmetic(res.learn, **arithmetic)
    return res

@call_parse
def main(
    quick:store_true, # Few small images, two rounds: does the script run?
    images:int=128, # Images of an epoch
    repeats:int=5, # Rounds
    out:Path=None # Folder for `arithmetic.csv`. Default: nothing is written.
):
    "Time epochs in bfloat16 against those in float32"
    size,bs = 224,16
    if quick: images,size,repeats = 20,32,2
    print(machine())
    if not quick and has_bf16() is False: sys.exit('This processor has no bfloat16.')
    fits = {'float32': fit(images, size, bs), 'bf16': fit(images, size, bs, amp='bf16'),
            'bf16, channels last': fit(images, size, bs, amp='bf16', channels_last=True),
            'Balanced-MixUp 0.2 in bf16': fit(images, size, bs, mix=True, amp='bf16')}
    secs = rounds(fits, repeats)
    rows = [Row('a', 'bf16', 'float32', secs, 1.), Row('b', 'bf16, channels last', 'float32', secs),
            Row('c', 'Balanced-MixUp 0.2 in bf16', 'bf16', secs, 1.05)]
    for o in rows: print(o)
    write_table([o.row() for o in rows], out, 'arithmetic')
    missed = [o.name for o in rows if o.missed]
    if missed and not quick: sys.exit(f"missed: {', '.join(missed)}")
