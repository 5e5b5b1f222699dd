"""Photographs to the size of training: decoded in full, and by `decode='fast'`.

    python tests/benchmarks/decoding.py --out FOLDER

scikit-learn's two sample photographs are enlarged to 4,000 pixels, with grain added so that a pixel costs as many
bits as a camera's, and saved as JPEG of quality 90; beside them lies a round eye ground drawn on black. An item is
read by the loaders that `ImageData.dataloaders` makes: opened, decoded, resized to 224 and 512 pixels, made a tensor.
Full and fast take turns, and each turn gives a ratio; the median counts, and the spread is the smallest and the
largest. Files lie in the page cache: a slow disk would make every ratio smaller. Differences are between the two
tensors, in grey levels of 255, the mean over all pixels and colours and the largest.

Beside 4:2:0 there are 4:4:4, progressive JPEG, smaller photographs, and PNG and TIFF, which cannot be decoded in
part. The aims are 1.5 times as fast with a mean difference below 2 for every baseline JPEG of 4,000 pixels; the
script ends with an error where one is missed."""
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from common import machine, timed, write_table
from fastcore.script import call_parse
from PIL import Image
from sklearn.datasets import load_sample_images

from fastai_balmix.datasets.table import ImageData


def photograph(pixels, width):
    "An enlarged photograph with grain"
    height = round(width*pixels.shape[0]/pixels.shape[1])
    im = np.asarray(Image.fromarray(pixels).resize((width,height), Image.BICUBIC)).astype(np.float32)
    return Image.fromarray((im+np.random.default_rng(0).normal(0, 4, (height,width,1))).clip(0, 255).astype(np.uint8))

def eye_ground(width):
    "A disc with dark winding lines, on black"
    height = width*3//4
    y,x = np.mgrid[:height,:width].astype(np.float32)
    r = np.hypot(x-width/2, y-height/2)/(.48*height)
    im = np.stack([190-60*r, 95-40*r, 40-20*r], -1) - 40*(np.sin(x/61+3*np.sin(y/340))>.985)[...,None]
    grain = np.random.default_rng(0).normal(0, 3, (height,width,1))
    return Image.fromarray((im*(r<1)[...,None]+grain).clip(0, 255).astype(np.uint8))

def cases(quick):
    "Name, picture, suffix, options of saving, and whether the aims hold"
    china,flower = load_sample_images().images
    big = photograph(china, 4000)
    jpeg = dict(quality=90, subsampling='4:2:0')
    yield 'china, 4,000 px',big,'jpg',jpeg,True
    yield 'eye ground, 4,000 px',eye_ground(4000),'jpg',jpeg,True
    if quick: return
    yield 'flower, 4,000 px',photograph(flower, 4000),'jpg',jpeg,True
    yield 'china, 4,000 px, 4:4:4',big,'jpg',dict(jpeg, subsampling='4:4:4'),True
    yield 'china, 4,000 px, progressive',big,'jpg',dict(jpeg, progressive=True),False
    for w in 2000,1000: yield f'china, {w:,} px',photograph(china, w),'jpg',jpeg,False
    yield 'china, 4,000 px, PNG',big,'png',dict(compress_level=1),False
    yield 'china, 4,000 px, TIFF',big,'tif',{},False

def reader(fn, size, decode):
    "A function that reads the image as a loader's worker does"
    df = pd.DataFrame(dict(path=fn.name, label='a'), index=[0])
    data = ImageData(df, ['a'], root=fn.parent)
    dls = data.dataloaders(parts=([0],[]), size=size, bs=1, num_workers=0, decode=decode)
    dl = dls.test_dl([fn])
    return lambda: dl.do_item(0)[0]

def repeated(f, n):
    "Mean seconds of `n` calls"
    return timed(lambda: [f() for _ in range(n)])[0]/n

@call_parse
def main(
    out:Path=None, # Folder for decoding.csv. Default: none is written.
    repeats:int=7, # Turns, five or more
    quick:bool=False # Two pictures, one size: seconds
):
    "Time decoding in full and in part, and compare what comes of it"
    repeats,rows,missed = max(5, repeats),[],[]
    print(machine(), end='\n\n')
    print(f"{'':30}{'size':>5}{'full ms':>9}{'fast ms':>9}{'ratio':>7}{'spread':>14}{'mean diff':>11}{'max':>5}")
    with tempfile.TemporaryDirectory() as tmp:
        for what,im,suffix,options,aimed in cases(quick):
            fn = Path(tmp)/f'picture.{suffix}'
            im.save(fn, **options)
            for size in [224] if quick else [224,512]:
                full,fast = (reader(fn, size, o) for o in ('full','fast'))
                diff = np.abs(np.asarray(full()).astype(int)-np.asarray(fast()))
                n = 1+int(.05/repeated(fast, 1)) # a turn of a few milliseconds would measure what else the machine does
                secs = np.array([(repeated(full, n),repeated(fast, n)) for _ in range(repeats)])
                (a,b),ratios = np.median(secs, 0)*1000,secs[:,0]/secs[:,1]
                row = dict(what=what, size=size, full_ms=round(a, 1), fast_ms=round(b, 1),
                           ratio=round(median(ratios), 2), spread=f'{ratios.min():.2f} to {ratios.max():.2f}',
                           mean_diff=round(diff.mean(), 2), max_diff=diff.max())
                rows.append(row)
                print(f"{what:30}{size:5}{a:9.1f}{b:9.1f}{row['ratio']:7.2f}{row['spread']:>14}", end='')
                print(f"{row['mean_diff']:11.2f}{row['max_diff']:5}", flush=True)
                if aimed and (row['ratio']<=1.5 or diff.mean()>=2): missed.append(f'{what} at {size}')
    write_table(rows, out, 'decoding')
    if missed: sys.exit(f"missed: {'; '.join(missed)}")
