"""The notebooks show one scan of 12 bits. Here are all depths in which files come, 16 bits a colour, transparency and
EXIF in every format, frames, what is said of a data set before it is trained on, and that a range makes training
equal."""

import io
import os
import shutil
import struct
import warnings
import zlib
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import warm_call
from fastai.vision.all import CrossEntropyLossFlat, Learner, load_learner
from PIL import Image, ImageFile, ImageOps
from sklearn.datasets import load_digits
from torch import nn
from toys import must_be

from fastai_balmix.datasets import seen as module
from fastai_balmix.datasets.images import (
    ArrayImages,
    OpenFast,
    OpenImage,
    Reading,
    as_rgb,
    image_suffixes,
    open_image,
)
from fastai_balmix.datasets.sources import read_data
from fastai_balmix.datasets.table import ImageData

rng = np.random.default_rng(0)
eight = (load_digits().images*255/16).astype(np.uint8)
twelve = np.rint(eight*(4095/255)).astype(np.uint16)
wide = rng.integers(0, 4096, (6,9,4)).astype(np.uint16) # colours and opacity of 12 bits

def grey(im): return np.asarray(im)[...,0].tolist()

def png(array, colour_type, extra=b''):
    "A PNG with 16 bits a colour, which Pillow cannot write"
    def chunk(name, content):
        return struct.pack('>I', len(content))+name+content+struct.pack('>I', zlib.crc32(name+content))
    rows = b''.join(b'\0'+row.astype('>u2').tobytes() for row in array)
    head = struct.pack('>IIBBBBB', array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', head)+extra+chunk(b'IDAT', zlib.compress(rows))+chunk(b'IEND', b''))

def tiff(array, order='<', deflate=False, extra=None, photometric=None, sample_format=1):
    "A TIFF of one strip, of any depth"
    n = 1 if array.ndim==2 else array.shape[2]
    strip = np.ascontiguousarray(array).astype(array.dtype.newbyteorder(order)).tobytes()
    if deflate: strip = zlib.compress(strip)
    if photometric is None: photometric = 1 if n==1 else 2
    tags = {256:(4,[array.shape[1]]), 257:(4,[array.shape[0]]), 258:(3,[array.dtype.itemsize*8]*n),
            259:(3,[8 if deflate else 1]), 262:(3,[photometric]), 273:(4,[0]), 277:(3,[n]), 278:(4,[array.shape[0]]),
            279:(4,[len(strip)]), 339:(3,[sample_format]*n)}
    if extra is not None: tags[338] = (3,[extra])
    at = 8+2+12*len(tags)+4
    blobs,entries = b'',b''
    room = sum(len(values)*2 for kind,values in tags.values() if kind==3 and len(values)>2)
    tags[273] = (4,[at+room])
    for tag,(kind,values) in sorted(tags.items()):
        raw = struct.pack(order+('H' if kind==3 else 'I')*len(values), *values)
        if len(raw)>4:
            blobs += raw
            raw = struct.pack(order+'I', at+len(blobs)-len(raw))
        entries += struct.pack(order+'HHI', tag, kind, len(values))+raw.ljust(4, b'\0')
    mark = b'II*\0' if order=='<' else b'MM\0*'
    return mark+struct.pack(order+'IH', 8, len(tags))+entries+b'\0\0\0\0'+blobs+strip

def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes): path.write_bytes(content)
    else: content.save(path)
    return path

def of_files(root, contents, **kwargs):
    "A data set of files, {name: bytes or image}"
    for name,content in contents.items(): write(root/name, content)
    df = pd.DataFrame(dict(path=list(contents), label=['ab'[i%2] for i in range(len(contents))], split='train'))
    return ImageData(df, ['a','b'], root=root, **kwargs)

def scans(arrays=twelve, n=6, suffix='png'): return {f'x{i}.{suffix}': Image.fromarray(arrays[i]) for i in range(n)}

# Depth

floats = (eight/255).astype(np.float32)
hounsfield = (eight.astype(np.int32)*16-1024)

@pytest.mark.parametrize('content,suffix,limits', [
    (Image.fromarray(twelve[0]), 'png', (0,4095)), (Image.fromarray(twelve[0]), 'tif', (0,4095)),
    (Image.fromarray(twelve[0]), 'jp2', (0,4095)), (Image.fromarray(twelve[0].astype(np.int32)), 'pgm', (0,4095)),
    (tiff(twelve[0], '>'), 'tif', (0,4095)), (tiff(twelve[0], deflate=True), 'tif', (0,4095)),
    (b'P5 8 8 4095\n'+twelve[0].astype('>u2').tobytes(), 'pgm', (0,4095)),
    (b'P5 8 8 4095\n'+twelve[0].astype('>u2').tobytes(), 'pgm', None), # its own range
    (b'P6 8 8 4095\n'+np.stack([twelve[0]]*3, 2).astype('>u2').tobytes(), 'ppm', None),
    (b'P6 8 8 65535\n'+np.stack([twelve[0]]*3, 2).astype('>u2').tobytes(), 'ppm', (0,4095)),
    (Image.fromarray(floats[0]), 'tif', (0,1)), (Image.fromarray(floats[0]), 'pfm', (0,1)),
    (tiff(floats[0], '>', sample_format=3), 'tif', (0,1)),
    (Image.fromarray(hounsfield[0]), 'tif', (-1024,3056)),
    (tiff(hounsfield[0].astype(np.int16), sample_format=2), 'tif', (-1024,3056)),
    (tiff((eight[0].astype(int)-128).astype(np.int8), sample_format=2), 'tif', (-128,127)),
    (tiff(eight[0].astype(np.uint32)*2**24), 'tif', (0,255*2**24)),
    (tiff(4095-twelve[0], photometric=0), 'tif', (0,4095)), # white is zero
    (png(np.stack([twelve[0]]*3, 2), 2), 'png', (0,4095)), (Image.fromarray(eight[0]), 'png', (0,255))])
def test_a_range_reads_every_depth_alike(tmp_path, content, suffix, limits):
    fn = write(tmp_path/f'x.{suffix}', content)
    want = eight[0].astype(int)
    got = np.asarray(open_image(fn, Reading(limits)))[...,0].astype(int)
    assert np.abs(got-want).max()<=1
    assert np.abs(np.asarray(OpenImage(Reading(limits))(fn))[...,0].astype(int)-want).max()<=1

@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('form', ['png','tif','deflate'])
@pytest.mark.parametrize('n', [2,3,4])
def test_sixteen_bits_a_colour_keep_their_lower_half(tmp_path, form, n, order):
    if (form=='png' and order=='>') or (form!='png' and n==2): pytest.skip('there is one form only')
    array = wide[...,:n]
    if form=='png': content = png(array, {2:4, 3:2, 4:6}[n])
    else: content = tiff(array, order, form=='deflate', 2 if n==4 else None)
    fn = write(tmp_path/f"x.{'png' if form=='png' else 'tif'}", content)
    colours = np.rint(np.stack([array[...,0]]*3, 2)*(255/4095)) if n==2 else np.rint(array[...,:3]*(255/4095))
    if n!=3:
        opacity = array[...,-1:]/65535
        colours = colours*opacity+255*(1-opacity)
    got = np.asarray(open_image(fn, Reading((0,4095)))).astype(int)
    assert np.abs(got-colours).max()<=1.01

def test_the_container_is_the_range_of_16_bits():
    ramp = np.arange(0, 65536, 97, dtype=np.uint16).reshape(4,-1)
    plain,stated,pair = (as_rgb(Image.fromarray(ramp), Reading(o)) for o in (None,'16bit',(0,65535)))
    assert grey(plain)==grey(stated)==grey(pair)==np.rint(ramp/257).astype(int).tolist()

@pytest.mark.parametrize('array,words', [
    (hounsfield[1], ('32-bit integers','-1024 to 3056')), ((floats[1]*.5).astype(np.float32), ('floats','0 to 0.5'))])
def test_values_without_a_range_are_not_guessed(tmp_path, array, words):
    fn = write(tmp_path/'scan.tif', Image.fromarray(array))
    with pytest.raises(ValueError, match='needs a range for black and white') as e: open_image(fn)
    assert f'{words[0]} have none of their own: ' in str(e.value) and 'range=(' in str(e.value)
    assert f'scan.tif has values from {words[1]}.' in str(e.value)

@pytest.mark.parametrize('value', [np.nan,np.inf,-np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    array = floats[0].copy()
    array[2,3] = value
    contents = {'x.tif': Image.fromarray(array), 'y.tif': Image.fromarray(floats[1])}
    data = of_files(tmp_path, contents, range=(0,1))
    with pytest.raises(ValueError, match='x.tif has 1 that are NaN or infinite'):
        open_image(tmp_path/'x.tif', data.reading)
    assert data.verify(progress=False).bad.path.tolist()==['x.tif']

@pytest.mark.parametrize('kwargs,allowed', [
    (dict(range=(3,3)), 'a pair (low, high) with low below high. Got (3, 3) instead.'),
    (dict(range=(5,3)), 'a pair (low, high) with low below high. Got (5, 3) instead.'),
    (dict(range='8bit'), "a pair of numbers (low, high), '16bit', or None. Got '8bit' instead."),
    (dict(range=(0,np.nan)), "a pair of numbers (low, high), '16bit', or None. Got (0, nan) instead."),
    (dict(range=4095), "a pair of numbers (low, high), '16bit', or None. Got 4095 instead."),
    (dict(frame=-1), 'an int in the range [0, inf). Got -1 instead.'),
    (dict(background='whit'), "the name of a colour, such as 'white' or '#ffffff', or three ints from 0 to 255. Got "
                              "'whit' instead."),
    (dict(background=(0,0,256)), "the name of a colour, such as 'white' or '#ffffff', or three ints from 0 to 255. Got "
                                 '(0, 0, 256) instead.')])
def test_a_bad_reading_is_named(tmp_path, kwargs, allowed):
    with pytest.raises(ValueError) as e: of_files(tmp_path, scans(n=2), **kwargs)
    assert str(e.value)==must_be('ImageData', next(iter(kwargs)), allowed)

# Pictures as people see them

exif_formats = ['jpg','png','tif','webp','avif','mpo']
corners = np.array([[250,20,20,20],[20,20,20,20],[120,20,20,20]], np.uint8)
photo = Image.fromarray(np.kron(corners, np.ones((16,16), np.uint8)))

@pytest.mark.parametrize('suffix', exif_formats)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_pictures_stand_upright(tmp_path, suffix, orientation):
    ex = Image.Exif()
    ex[0x0112] = orientation
    fn = tmp_path/f'x.{suffix}'
    im = photo.convert('RGB')
    if suffix=='mpo': im.save(fn, exif=ex, save_all=True, append_images=[im])
    else: im.save(fn, exif=ex)
    upright = im.copy()
    upright.getexif()[0x0112] = orientation
    want = np.asarray(ImageOps.exif_transpose(upright)).astype(int)
    for got in open_image(fn),open_image(partial(Image.open, fn)):
        assert got.size==want.shape[1::-1] and np.abs(np.asarray(got).astype(int)-want).max()<40

@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_reduced_decoding_stands_upright_too(tmp_path, orientation):
    ex = Image.Exif()
    ex[0x0112] = orientation
    big = photo.resize((640,480), Image.Resampling.BICUBIC).convert('RGB')
    big.save(tmp_path/'x.jpg', exif=ex, quality=95)
    whole = open_image(tmp_path/'x.jpg').resize((48,32), Image.Resampling.BILINEAR)
    fast = OpenFast((48,32))(tmp_path/'x.jpg')
    assert fast.size==(48,32) and np.abs(np.asarray(fast).astype(int)-np.asarray(whole)).mean()<1.5

see_through = np.zeros((8,8,4), np.uint8)
see_through[:,:4] = 200,100,50,255
see_through[:,4:] = 9,90,180,0 # invisible

@pytest.mark.parametrize('background,colour', [
    ('white',(255,255,255)), ('black',(0,0,0)), ('#102030',(16,32,48)), ((1,2,3),(1,2,3))])
@pytest.mark.parametrize('form', ['png','webp','tif','gif','tga','palette','key'])
def test_invisible_pixels_decide_nothing(tmp_path, form, background, colour):
    im = Image.fromarray(see_through)
    fn = tmp_path/f"x.{form if form not in ('palette','key') else 'png'}"
    if form=='webp': im.save(fn, lossless=True, exact=True)
    elif form=='palette': im.quantize(4).save(fn)
    elif form=='key': im.convert('RGB').save(fn, transparency=(9,90,180))
    else: im.save(fn)
    got = np.asarray(open_image(fn, Reading(background=background)))
    assert np.abs(got[:,4:].astype(int)-colour).max()==0 and np.abs(got[:,:4].astype(int)-(200,100,50)).max()<=1

@pytest.mark.parametrize('mode', ['LA','PA','La','RGBa'])
def test_images_in_memory_are_covered_too(mode):
    im = Image.fromarray(see_through)
    im = im.convert('LA') if mode in ('LA','La') else im
    im = Image.merge('LA', im.split()).convert('La') if mode=='La' else im.convert(mode) if mode!='LA' else im
    assert (np.asarray(as_rgb(im, Reading(background='black')))[:,4:]==0).all()

def test_grey_of_16_bits_has_a_colour_to_see_through(tmp_path):
    key = struct.pack('>I', 2)+b'tRNS'+struct.pack('>H', 7)
    key += struct.pack('>I', zlib.crc32(key[4:]))
    array = np.full((4,4), 4095, np.uint16)
    array[0] = 7
    fn = write(tmp_path/'x.png', png(array, 0, key))
    got = np.asarray(open_image(fn, Reading((0,8190), background=(1,2,3))))
    assert got[0,0].tolist()==[1,2,3] and got[1,0].tolist()==[128]*3

@pytest.mark.parametrize('suffix', ['gif','tif','webp','png','mpo','avif'])
def test_a_frame_is_chosen(tmp_path, suffix):
    steps = [Image.new('RGB', (16,16), (v,v,v)) for v in (10,100,200)]
    fn = tmp_path/f'x.{suffix}'
    steps[0].save(fn, save_all=True, append_images=steps[1:])
    values = [np.asarray(open_image(fn, Reading(frame=k))).mean() for k in (None,0,1,2)]
    assert np.abs(np.subtract(values, [10,10,100,200])).max()<4
    for opened in open_image,OpenFast((8,8)).encodes:
        with pytest.raises(ValueError, match=f'files with a frame 3, counted from 0, but x.{suffix} has 3 frames'):
            if opened is open_image: open_image(fn, Reading(frame=3))
            else: OpenFast((8,8), Reading(frame=3))(fn)
    one = write(tmp_path/'one.jpg', steps[0])
    with pytest.raises(ValueError, match='one.jpg has 1 frame'): open_image(one, Reading(frame=1))
    data = of_files(tmp_path, {'z.png': steps[0], 'y.png': steps[1]})
    df = pd.concat([data.df, pd.DataFrame([dict(path=fn.name, label='a', split='train')])])
    data = ImageData(df, ['a','b'], root=tmp_path)
    words = f'1 image has several frames, of which the first is read: x.{suffix} has 3.'
    for text in data.summary(),repr(data.verify(progress=False)),data.summary(): assert words in text

# What is never opened

postscript = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch hacked) (w) file\nshowpage\n%%EOF\n'

@pytest.mark.parametrize('content', [
    postscript, b'%PDF-1.4\n', b'\xd7\xcd\xc6\x9a'+bytes(18)+b'\x01\0\t\0', b'GRIB\0\0\0\1', b'\x89HDF\r\n\x1a\n'])
def test_no_interpreter_sees_a_file(tmp_path, monkeypatch, content):
    monkeypatch.setattr('subprocess.Popen', lambda *args, **kwargs: pytest.fail('a program was started'))
    monkeypatch.setattr('subprocess.check_call', lambda *args, **kwargs: pytest.fail('a program was started'))
    fn = write(tmp_path/'x.png', content)
    for opened in open_image,OpenFast((8,8)),OpenImage():
        with pytest.raises(Exception, match='cannot identify image file'): opened(fn)
    data = of_files(tmp_path, {'x.png': content, 'y.png': Image.fromarray(eight[0])})
    assert data.verify(num_workers=0, progress=False).bad.problem.tolist()==['not an image that Pillow can read']

def test_suffixes_are_those_that_can_be_opened(tmp_path):
    assert {'.jpg','.jfif','.jp2','.avif','.mpo','.pbm','.tga','.webp','.tif','.png'} <= {*image_suffixes()}
    assert not {'.eps','.ps','.pdf','.wmf','.h5','.mpg','.grib'} & {*image_suffixes()}
    assert list(image_suffixes())==sorted(image_suffixes())

# What is said

def said(data):
    "What summary, verification and loaders say"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        try: data.dataloaders(parts=(range(len(data)),[]), size=8, bs=2, num_workers=0)
        except ValueError as e: warned = str(e)
        else: warned = '\n'.join(str(o.message) for o in seen)
    return data.summary(),repr(data.verify(progress=False)),warned

def test_part_of_a_depth_is_said(tmp_path):
    data = of_files(tmp_path, scans())
    words = '6 images use 0 to 4095 of 65535: state range=(0, 4095).'
    for text in said(data): assert words in text
    assert not data.verify(progress=False).ok
    for kwargs in dict(range=(0,4095)),dict(range='16bit'):
        data = of_files(tmp_path, scans(), **kwargs)
        for text in said(data): assert 'state range' not in text and 'beyond' not in text
        assert data.verify(progress=False).ok

def test_colours_of_12_bits_are_said(tmp_path):
    contents = {f'x{i}.png': png(np.stack([twelve[i]]*3, 2), 2) for i in range(4)}
    for text in said(of_files(tmp_path, contents)): assert '4 images use 0 to 4095 of 65535: state range' in text

def test_few_of_many_are_looked_at(tmp_path, monkeypatch):
    data = of_files(tmp_path, scans(n=40))
    assert '32 images use 0 to 4095 of 65535: state range=(0, 4095). (32 images looked at)' in data.summary()
    data.verify(progress=False)
    assert '40 images use 0 to 4095 of 65535: state range=(0, 4095).\n' in data.summary()+'\n'
    write(tmp_path/'x3.png', Image.fromarray(twelve[50])) # what was kept is no longer true of all
    assert '(32 images looked at)' in data.summary()

def test_of_8_bits_a_look_reads_headers_alone(tmp_path, monkeypatch):
    data = of_files(tmp_path, scans(eight))
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda self: pytest.fail('an image was decoded'))
    assert 'range' not in data.summary()

@pytest.mark.parametrize('arrays,proposal', [
    (hounsfield, '(-1024, 3056)'), (floats, '(0, 1)'), (eight.astype(np.float32), '(0, 255)'),
    (eight.astype(np.float32)*10-7.5, '(-8, 2543)'), (eight.astype(np.int32)*16, '(0, 4095)')])
def test_depths_without_a_range_stop_before_training(tmp_path, arrays, proposal):
    arrays = arrays.copy()
    arrays[0].flat[:2] = arrays.min(),arrays.max()
    data = of_files(tmp_path, scans(arrays, suffix='tif'))
    for text in said(data): assert f'state range={proposal}.' in text and 'x0.tif' in text
    assert 'needs a range that all images share' in said(data)[2]
    assert not len(data.verify(progress=False).bad)

def test_what_a_range_cuts_off_is_named(tmp_path):
    contents = scans()
    contents['y.png'] = Image.fromarray((twelve[0].astype(int)*2).astype(np.uint16))
    data = of_files(tmp_path, contents, range=(0,4095))
    high = 2*int(twelve[0].max())
    words = f'1 image goes beyond range=(0, 4095) and will be cut off there: y.png (0 to {high}).'
    for text in said(data): assert words in text

def test_mixed_depths_are_named(tmp_path):
    contents = scans()|{'e.png': Image.fromarray(eight[0])}
    for text in said(of_files(tmp_path, contents))[:2]:
        assert 'Depths are mixed: 6 of 16 bits, 1 of 8 bits, such as e.png.' in text
    for text in said(of_files(tmp_path, contents, range=(0,4095))):
        assert '1 image has 8 bits, at most 255 in range=(0, 4095), and will be dark, such as e.png.' in text

def test_a_range_that_is_hardly_used_is_said(tmp_path):
    data = of_files(tmp_path, scans(floats, suffix='tif'), range=(0,4095))
    for text in said(data): assert '6 images use only 0 to 1 of range=(0, 4095).' in text

def test_ordinary_images_are_not_talked_about(tmp_path):
    data = of_files(tmp_path, scans(eight))
    summary,found,warned = said(data)
    assert warned=='' and 'range' not in summary+found and data.verify(progress=False).ok
    full = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8,8)
    data = of_files(tmp_path, {f'f{i}.png': Image.fromarray(np.roll(full, i)) for i in range(3)})
    assert said(data)[2]=='' and data.verify(progress=False).ok

def test_arrays_of_12_bits_are_said():
    images = ArrayImages(lambda: dict(digits=twelve))
    df = pd.DataFrame(dict(path=[f'digits/{i}' for i in range(4)], label=list('abab'), split='train'))
    for text in said(ImageData(df, ['a','b'], images=images)): assert '4 images use 0 to 4095 of 65535' in text
    data = ImageData(df, ['a','b'], images=images, range=(0,4095))
    x = data.dataloaders(parts=([0,1],[2]), size=None, bs=2, num_workers=0).one_batch()[0]
    assert sorted((x[:,0]*255).round().int().amax((1,2)).tolist())==sorted(eight[:2].max((1,2)).tolist())

# Where it is kept

def test_the_reading_travels(tmp_path):
    data = of_files(tmp_path, scans(), range=[0,4095.0], frame=0, background=[1,2,3])
    assert data.reading==Reading((0,4095), 0, (1,2,3))
    for other in data.subset(range(3)),data.with_folds(2),data.without_broken(): assert other.reading==data.reading

def test_the_reading_is_part_of_the_fingerprint(tmp_path):
    def of(**kwargs): return of_files(tmp_path, scans(), **kwargs).fingerprint
    assert len({of(), of(range=(0,4095)), of(range='16bit'), of(frame=1), of(background='black')})==5
    assert of(range=(0,4095))==of(range=[0.0,4095.0]) and of(background='white')==of(background='#ffffff')
    assert of()==of(frame=0)

class Small(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(192, 2))

def fitted(root, arrays, suffix, **kwargs):
    "A learner, and its losses, on the same digits in another depth"
    data = of_files(root, scans(arrays, 32, suffix), **kwargs)
    torch.manual_seed(0)
    net = Small()
    dls = data.dataloaders(parts=(range(24),range(24,32)), size=8, bs=8, num_workers=0, seed=0)
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat())
    with learn.no_bar(),learn.no_logging(): learn.fit(2, 1e-2)
    return learn,np.array([float(o) for o in learn.recorder.losses])

def test_training_is_the_same_in_every_depth(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _,want = fitted(tmp_path/'8', eight, 'png')
        _,deep = fitted(tmp_path/'12', twelve, 'png', range=(0,4095))
        _,real = fitted(tmp_path/'f', floats, 'tif', range=(0,1))
        _,dark = fitted(tmp_path/'dark', twelve, 'png')
    np.testing.assert_allclose(deep, want, atol=1e-5)
    np.testing.assert_allclose(real, want, atol=1e-3)
    assert np.abs(dark-want).max()>1e-2

def predicted(export, paths):
    learn = load_learner(export)
    with learn.no_bar():
        one = learn.predict(paths[0])[2].tolist()
        many = learn.get_preds(dl=learn.dls.test_dl(paths))[0].tolist()
    return one,many

def test_an_exported_learner_reads_as_training_did(tmp_path):
    learn,_ = fitted(tmp_path/'12', twelve, 'png', range=(0,4095))
    learn.export(tmp_path/'export.pkl')
    one,many = warm_call(predicted, tmp_path/'export.pkl', [tmp_path/'12'/f'x{i}.png' for i in range(3)])
    plain,_ = fitted(tmp_path/'8', eight, 'png')
    plain.model.load_state_dict(learn.model.state_dict()) # the same network, the same pictures in 8 bits
    dl = plain.dls.test_dl([tmp_path/'8'/f'x{i}.png' for i in range(3)])
    want = plain.get_preds(dl=dl)[0].numpy()
    np.testing.assert_allclose(many, want, atol=1e-5)
    np.testing.assert_allclose(one, want[0], atol=1e-5)

# Files that are missing, broken or copied

def test_links_that_lead_nowhere_are_missing(tmp_path):
    data = of_files(tmp_path, scans(eight, 4))
    store = tmp_path/'store'
    store.mkdir()
    for name in 'x0.png','x1.png':
        (tmp_path/name).rename(store/name)
        (tmp_path/name).symlink_to(store/name)
    (tmp_path/'x2.png').unlink()
    (tmp_path/'x2.png').symlink_to('x2.png') # a circle
    before = data.fingerprint
    (store/'x0.png').unlink()
    data = ImageData(data.df, data.vocab, root=tmp_path)
    assert data.missing==['x0.png','x2.png'] and 'Missing files: 2, such as x0.png, x2.png.' in data.summary()
    found = data.verify(progress=False)
    assert found.bad.path.tolist()==['x0.png','x2.png'] and found.bad.problem.tolist()==['missing']*2
    assert data.fingerprint!=before
    with pytest.raises(ValueError, match='2 missing'): data.dataloaders(parts=([0,2],[]), size=8, bs=1)

@pytest.mark.parametrize('content,name', [
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n', 'Git LFS'),
    (b'/annex/objects/MD5E-s3--1.png\n', 'git-annex')])
def test_pointers_are_told_from_images(tmp_path, content, name):
    data = of_files(tmp_path, scans(eight, 2)|{'p.png': content})
    assert data.verify(progress=False).bad.problem.tolist()==[f'a pointer of {name} to a file that is not here']

def test_broken_images_are_left_out(tmp_path):
    contents = scans(eight)|{f'b{i}.png': b'no image' for i in range(4)}
    data = of_files(tmp_path, contents, recipe=dict(reader='from_folder_table'))
    (tmp_path/'x5.png').unlink()
    rest = data.without_broken()
    assert rest.df.path.tolist()==[f'x{i}.png' for i in range(5)] and rest.verify(progress=False).ok
    note = '5 images left out, unreadable or missing: x5.png, b0.png, b1.png …'
    assert rest.notes==[note] and note in rest.summary() and rest.recipe['then']==[dict(step='without_broken')]
    assert rest.without_broken().notes==[note]

def test_leaving_out_is_a_step_of_a_recipe(tmp_path):
    for k in 'ab':
        for i in range(3): write(tmp_path/k/f'{i}.png', Image.fromarray(eight[i]))
    (tmp_path/'a'/'1.png').write_bytes(b'')
    data = read_data(dict(reader='from_folder_table', folder=str(tmp_path), then=[dict(step='without_broken')]))
    assert len(data)==5 and data.notes[-1]=='1 image left out, unreadable or missing: a/1.png.'

def test_the_fingerprint_is_of_bytes(tmp_path):
    data = of_files(tmp_path/'a', scans(eight, 2))
    one = data.fingerprint
    other = bytearray((tmp_path/'a'/'x0.png').read_bytes())
    stat = os.stat(tmp_path/'a'/'x0.png')
    other[40] ^= 1 # as many bytes as before, and the same date
    (tmp_path/'a'/'x0.png').write_bytes(other)
    os.utime(tmp_path/'a'/'x0.png', ns=(stat.st_atime_ns,stat.st_mtime_ns))
    assert ImageData(data.df, data.vocab, root=tmp_path/'a').fingerprint!=one
    (tmp_path/'a').rename(tmp_path/'b') # its place is no part of it
    moved = ImageData(data.df, data.vocab, root=tmp_path/'b').fingerprint
    assert moved==of_files(tmp_path/'c', {'x0.png':bytes(other), 'x1.png':Image.fromarray(eight[1])}).fingerprint

def test_what_came_with_the_data_is_not_believed(tmp_path):
    data = of_files(tmp_path/'a', scans(eight, 3))
    data.verify(progress=False)
    shutil.copytree(tmp_path/'a', tmp_path/'b') # with dates and the kept table
    copied = ImageData(data.df, data.vocab, root=tmp_path/'b')
    stat = os.stat(tmp_path/'b'/'x1.png')
    (tmp_path/'b'/'x1.png').write_bytes(bytes(stat.st_size))
    os.utime(tmp_path/'b'/'x1.png', ns=(stat.st_atime_ns,stat.st_mtime_ns))
    found = copied.verify(progress=False)
    assert found.opened==3 and found.bad.path.tolist()==['x1.png'] and copied.fingerprint!=data.fingerprint

def test_hashes_serve_both(tmp_path, monkeypatch):
    data = of_files(tmp_path, scans(eight, 3))
    one = data.fingerprint
    read = []
    kept_read = module._read
    monkeypatch.setattr(module, '_read', lambda path: read.append(path) or kept_read(path))
    again = ImageData(data.df, data.vocab, root=tmp_path)
    assert again.fingerprint==one and not read
    assert again.verify(num_workers=0, progress=False).opened==3 and len(read)==3
    assert ImageData(data.df, data.vocab, root=tmp_path).fingerprint==one and len(read)==3
    framed = ImageData(data.df, data.vocab, root=tmp_path, frame=1) # another frame is looked at anew
    assert len(framed.verify(num_workers=0, progress=False).bad)==3

def test_the_helpers_write_what_they_should():
    for order in '<>':
        im = Image.open(io.BytesIO(tiff(twelve[0], order)))
        assert np.asarray(im).astype(int).tolist()==twelve[0].tolist()
