"""The notebook opens one slice that pydicom brings along. Here are files of every kind that archives hold, made by
pydicom or brought by it: rescaled, with windows, white at zero, in colour, of several frames, without a suffix,
damaged; and what is said of them, with and without pydicom."""

import builtins
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import warm_call
from fastai.vision.all import CrossEntropyLossFlat, Learner, load_learner
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sklearn.datasets import load_digits
from torch import nn

from fastai_balmix.datasets.dicom import header_values, is_dicom
from fastai_balmix.datasets.images import OpenFast, Reading, open_image
from fastai_balmix.datasets.sources import read_data
from fastai_balmix.datasets.table import ImageData
from fastai_balmix.datasets.tables import from_csv
from fastai_balmix.datasets.trees import from_folder_table

pixels = load_digits().images.astype(np.int16)*255 # 0 to 4080

def dicom(path, array=pixels[1], **header):
    "A DICOM file of an array (H,W), (H,W,3), or (n,H,W) with NumberOfFrames"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = '1.2.840.10008.5.1.4.1.1.2'
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b'\0'*128)
    frames = 'NumberOfFrames' in header
    ds.Rows,ds.Columns = array.shape[1:3] if frames else array.shape[:2]
    colour = array.ndim==3 and not frames
    ds.SamplesPerPixel = 3 if colour else 1
    if colour: ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = 'RGB' if colour else 'MONOCHROME2'
    ds.BitsAllocated = 8*array.dtype.itemsize
    ds.BitsStored = min(header.pop('BitsStored', ds.BitsAllocated), ds.BitsAllocated)
    ds.HighBit = ds.BitsStored-1
    ds.PixelRepresentation = int(array.dtype.kind=='i')
    for name,value in header.items(): setattr(ds, name, value)
    ds.PixelData = array.tobytes()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return Path(path)

def item(**values):
    ds = Dataset()
    for name,value in values.items(): setattr(ds, name, value)
    return ds

def grey(path, **kwargs): return np.asarray(open_image(path, Reading(**kwargs)))[...,0].astype(int)
def linear(x, low, high): return np.rint((np.clip(x, low, high)-float(low))*(255/(high-low))).astype(int)

unsigned = pixels.astype(np.uint16)

def test_values_are_rescaled(tmp_path):
    fn = dicom(tmp_path/'x.dcm', unsigned[1], RescaleSlope=2, RescaleIntercept=-1024, BitsStored=12)
    np.testing.assert_array_equal(grey(fn, range=(-1000,3000)), linear(unsigned[1]*2.-1024, -1000, 3000))
    np.testing.assert_array_equal(grey(fn), linear(unsigned[1]*2.-1024, -1024, 4095*2-1024)) # all that 12 bits can hold
    np.testing.assert_array_equal(grey(fn, range='16bit'), grey(fn))

def test_a_slope_below_zero(tmp_path):
    fn = dicom(tmp_path/'x.dcm', unsigned[1], RescaleSlope=-1, RescaleIntercept=4095, BitsStored=12)
    np.testing.assert_array_equal(grey(fn), linear(4095.-unsigned[1], 0, 4095))

def test_the_window_of_the_file(tmp_path):
    fn = dicom(tmp_path/'x.dcm', WindowCenter=[2000,40], WindowWidth=[1000,400])
    x = pixels[1].astype(float)
    want = np.where(x<=2000-.5-499.5, 0, np.where(x>2000-.5+499.5, 255, ((x-1999.5)/999+.5)*255))
    assert np.abs(grey(fn)-want).max()<=1
    np.testing.assert_array_equal(grey(fn, range=(0,4080)), linear(x, 0, 4080)) # a stated range takes its place
    exact = dicom(tmp_path/'e.dcm', WindowCenter=2000, WindowWidth=1000, VOILUTFunction='LINEAR_EXACT')
    np.testing.assert_array_equal(grey(exact), linear(x, 1500, 2500))
    bent = dicom(tmp_path/'s.dcm', WindowCenter=2000, WindowWidth=1000, VOILUTFunction='SIGMOID')
    assert np.abs(grey(bent)-255/(1+np.exp(-4*(x-2000)/1000))).max()<=1
    step = dicom(tmp_path/'t.dcm', WindowCenter=2000, WindowWidth=1)
    np.testing.assert_array_equal(grey(step), np.where(x>1999.5, 255, 0))

@pytest.mark.parametrize('header', [dict(WindowCenter=40, WindowWidth=0), dict(WindowCenter=40), dict(WindowWidth=0)])
def test_a_window_that_is_none_is_passed_over(tmp_path, header):
    np.testing.assert_array_equal(grey(dicom(tmp_path/'x.dcm', unsigned[1], BitsStored=12, **header)),
                                  linear(unsigned[1], 0, 4095))

def test_a_table_in_place_of_a_window(tmp_path):
    levels = np.arange(4096)[::-1].astype(np.uint16)
    table = item(LUTDescriptor=[4096,0,12], LUTData=levels.tobytes())
    fn = dicom(tmp_path/'x.dcm', unsigned[1], BitsStored=12, VOILUTSequence=Sequence([table]))
    assert np.abs(grey(fn)-linear(4095-unsigned[1].astype(int), 0, 4095)).max()<=1
    np.testing.assert_array_equal(grey(fn, range=(0,4095)), linear(unsigned[1], 0, 4095))

@pytest.mark.parametrize('kwargs', [{},dict(range=(0,4095)),dict(range=(500,3000))])
def test_white_at_zero_is_turned(tmp_path, kwargs):
    header = dict(WindowCenter=2000, WindowWidth=1000) if not kwargs else {}
    plain = dicom(tmp_path/'x.dcm', **header)
    turned = dicom(tmp_path/'y.dcm', PhotometricInterpretation='MONOCHROME1', **header)
    np.testing.assert_array_equal(grey(turned, **kwargs), 255-grey(plain, **kwargs))

def test_colours(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (8,8,3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(open_image(dicom(tmp_path/'x.dcm', colours))), colours)
    ycc = np.asarray(Image.fromarray(colours).convert('YCbCr'))
    got = open_image(dicom(tmp_path/'y.dcm', ycc, PhotometricInterpretation='YBR_FULL'))
    assert np.abs(np.asarray(got).astype(int)-colours).max()<=3
    index = np.arange(64, dtype=np.uint8).reshape(8,8)
    luts = {f'{name}PaletteColorLookupTableData': (np.arange(256)*scale%256).astype(np.uint8).tobytes()
            for name,scale in dict(Red=1, Green=2, Blue=3).items()}
    described = {f'{name}PaletteColorLookupTableDescriptor': [256,0,8] for name in ('Red','Green','Blue')}
    palette = dicom(tmp_path/'p.dcm', index, PhotometricInterpretation='PALETTE COLOR', **described, **luts)
    np.testing.assert_array_equal(np.asarray(open_image(palette))[0,5], [5,10,15])

def test_frames(tmp_path):
    fn = dicom(tmp_path/'x.dcm', unsigned[:3], NumberOfFrames=3, BitsStored=12)
    for k in range(3): np.testing.assert_array_equal(grey(fn, frame=k, range=(0,4095)), linear(unsigned[k], 0, 4095))
    np.testing.assert_array_equal(grey(fn), grey(fn, frame=0))
    words = 'files with a frame 3, counted from 0, but x.dcm has 3 frames'
    with pytest.raises(ValueError, match=words): grey(fn, frame=3)

def test_enhanced_files_say_it_for_each_frame(tmp_path):
    def group(slope): return item(PixelValueTransformationSequence=Sequence([
        item(RescaleSlope=slope, RescaleIntercept=-10, RescaleType='HU')]))
    window = item(WindowCenter=2000, WindowWidth=1000)
    shared = item(FrameVOILUTSequence=Sequence([window]))
    fn = dicom(tmp_path/'x.dcm', unsigned[:2], NumberOfFrames=2, SharedFunctionalGroupsSequence=Sequence([shared]),
               PerFrameFunctionalGroupsSequence=Sequence([group(1),group(2)]))
    x = unsigned[1]*2.-10
    np.testing.assert_array_equal(grey(fn, frame=1, range=(0,5000)), linear(x, 0, 5000))
    np.testing.assert_array_equal(grey(fn, frame=1), linear(x, 1500, 2499))

def test_files_that_pydicom_brings():
    "Photographs of the same scene in several encodings are alike"
    names = 'SC_rgb_dcmtk_+eb+cr.dcm','SC_rgb_rle.dcm','SC_ybr_full_422_uncompressed.dcm','SC_rgb_jpeg_dcmtk.dcm'
    first,*others = [np.asarray(open_image(get_testdata_file(o))).astype(int) for o in names]
    for other in others: assert np.abs(first-other).mean()<3
    ct = np.asarray(open_image(get_testdata_file('CT_small.dcm'), Reading(range=(-1000,400))))
    assert ct.shape==(128,128,3) and ct.std()>50
    encodings = '','_RLE','_bigendian','_implicit'
    mr = [np.asarray(open_image(get_testdata_file(f'MR_small{o}.dcm'))).tolist() for o in encodings]
    assert mr[0]==mr[1]==mr[2]==mr[3]

@pytest.mark.parametrize('name', ['x.dcm','X.DCM','x.dicom','x','1.2.840.113','x.ima','x.png'])
def test_files_of_any_name(tmp_path, name):
    fn = dicom(tmp_path/name)
    assert is_dicom(fn) or name=='x.png'
    np.testing.assert_array_equal(grey(fn, range=(0,4080)), linear(pixels[1], 0, 4080))
    assert OpenFast((8,8), Reading((0,4080)))(fn).size==(8,8)

def test_other_files_are_not_dicom(tmp_path):
    Image.fromarray(np.zeros((4,4), np.uint8)).save(tmp_path/'x', 'PNG')
    assert not is_dicom(tmp_path/'x') and not is_dicom('x.png') and not is_dicom(tmp_path/'missing')
    assert open_image(tmp_path/'x').size==(4,4)

@pytest.mark.parametrize('content', [
    b'<html>404</html>', b'\0'*128+b'DICM', b'\0'*128+b'DICM'+b'\x02\0\0\0UL\4\0\xff\xff\0\0'+b'x'*40])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path/'x.dcm').write_bytes(content)
    dicom(tmp_path/'y.dcm')
    df = pd.DataFrame(dict(path=['x.dcm','y.dcm'], label='a'))
    found = ImageData(df, ['a'], root=tmp_path).verify(num_workers=0, progress=False)
    assert found.bad.path.tolist()==['x.dcm'] and str(tmp_path) not in found.bad.problem[0]

def of_files(root, **kwargs):
    paths = sorted(o.name for o in root.iterdir() if not o.name.startswith('.'))
    df = pd.DataFrame(dict(path=paths, label=['ab'[i%2] for i in range(len(paths))], split='train'))
    return ImageData(df, ['a','b'], root=root, **kwargs)

def said(data): return data.summary(),repr(data.verify(progress=False)),data.summary()

def test_windows_that_differ_are_counted(tmp_path):
    for i in range(4): dicom(tmp_path/f'{i}.dcm', pixels[i], WindowCenter=40+1000*(i%2), WindowWidth=400, BitsStored=13)
    for text in said(of_files(tmp_path)):
        assert '4 images are shown by 2 different windows of their own' in text
        assert '(-160 to 239 in 0.dcm, 840 to 1239 in 1.dcm)' in text
        assert 'state one range, such as range=(0, 4095).' in text
    for text in said(of_files(tmp_path, range=(0,4095))): assert 'windows' not in text

def test_bits_without_a_window_are_counted(tmp_path):
    for i in range(3): dicom(tmp_path/f'{i}.dcm', unsigned[i])
    for text in said(of_files(tmp_path)): assert '3 images use 0 to 4080 of 65535: state range=(0, 4095).' in text

def test_signed_bits_without_a_window_are_counted(tmp_path):
    shutil.copy(get_testdata_file('CT_small.dcm'), tmp_path/'x.dcm')
    words = '1 image uses -896 to 1167 of -33792 to 31743: state range=(-896, 1167).'
    for text in said(of_files(tmp_path)): assert words in text

def test_what_a_window_cuts_off_is_counted_and_no_alarm(tmp_path):
    for i in range(3): dicom(tmp_path/f'{i}.dcm', pixels[i])
    data = of_files(tmp_path, range=(0,1000))
    words = '3 images go beyond range=(0, 1000) and will be cut off there: 0.dcm (0 to 3825)'
    for text in said(data): assert words in text
    assert data.verify(progress=False).ok

def test_padding_is_no_measurement(tmp_path):
    array = pixels[1].copy()
    array[0] = -2000
    dicom(tmp_path/'x.dcm', array, PixelPaddingValue=-2000)
    fact = of_files(tmp_path, range=(0,4080)).verify(progress=False).holds['x.dcm']
    assert (fact.low,fact.high)==(0,4080)

# Headers

def test_headers(tmp_path):
    fields = dict(PatientName='Doe^Jane', ImageType=['ORIGINAL','PRIMARY'])
    paths = [dicom(tmp_path/f'{i}.dcm', PatientID=f' p{i%2} ', **fields) for i in range(3)]
    paths.append(dicom(tmp_path/'none.dcm'))
    assert header_values(paths, 'PatientID')==['p0','p1','p0','']
    assert header_values(paths[:1], 'PatientName')==['Doe^Jane']
    assert header_values(paths[:1], 'ImageType')==['ORIGINAL\\PRIMARY'] and header_values(paths[:1], 'Rows')==['8']
    assert header_values([tmp_path/'gone.dcm'], 'PatientID')==['']
    with pytest.raises(ValueError, match="There is no DICOM field 'PatientId'. Did you mean 'PatientID'"):
        header_values(paths, 'PatientId')

# Without pydicom

def test_patients_from_headers(tmp_path):
    "In a folder, in a table, and again from the recipe; one patient has no name in the header"
    for i in range(12):
        name = {} if i==5 else dict(PatientID=f'p{i//2}')
        dicom(tmp_path/'scans'/'ab'[i%2]/f'{i:02d}.dcm', pixels[i], **name)
    table = tmp_path/'scans'/'labels.csv'
    table.write_text('path,label\n'+''.join(f"{'ab'[i%2]}/{i:02d}.dcm,{'ab'[i%2]}\n" for i in range(12)))
    for read in partial(from_folder_table, tmp_path/'scans'), partial(from_csv, table):
        with pytest.raises(ValueError, match='05.dcm|index|row'): read(group='dicom:PatientID')
        data = read(group='dicom:PatientID', missing_group='own')
        patient = dict(zip(data.df.path, data.groups))
        assert patient['a/04.dcm']=='p2' and [patient['a/06.dcm'],patient['b/07.dcm']]==['p3','p3']
        assert len({*data.groups})==7 and any('group' in o for o in data.notes), data.notes
        assert [*read_data(data.recipe).groups]==[*data.groups]

@pytest.fixture
def no_pydicom(monkeypatch):
    kept = builtins.__import__
    def refuse(name, *args, **kwargs):
        if name.split('.')[0]=='pydicom': raise ImportError(name)
        return kept(name, *args, **kwargs)
    for name in [o for o in sys.modules if o.split('.')[0]=='pydicom']: monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, '__import__', refuse)

def test_without_pydicom_the_command_is_told(tmp_path, no_pydicom):
    shutil.copy(fetched, tmp_path/'x.dcm')
    shutil.copy(fetched, tmp_path/'noname')
    data = of_files(tmp_path)
    words = r"needs pydicom, but it is not installed. Install it by: pip install 'fastai_balmix\[dicom\]'"
    for call in (lambda: open_image(tmp_path/'x.dcm'), lambda: open_image(tmp_path/'noname'),
                 lambda: header_values([tmp_path/'x.dcm'], 'PatientID'), lambda: data.verify(progress=False),
                 lambda: data.dataloaders(parts=([0],[1]), bs=1, size=8)):
        with pytest.raises(ImportError, match=words): call()
    assert 'Missing files: 0.' in data.summary()

fetched = get_testdata_file('CT_small.dcm')

# It travels

class Small(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(192, 2))

def predicted(export, paths):
    learn = load_learner(export)
    with learn.no_bar():
        one = learn.predict(paths[0])[2].tolist()
        return one,learn.get_preds(dl=learn.dls.test_dl(paths))[0].tolist()

def test_an_exported_learner_opens_dicom_as_training_did(tmp_path):
    for i in range(8): dicom(tmp_path/f'd/{i}.dcm', pixels[i], WindowCenter=40, WindowWidth=400)
    data = of_files(tmp_path/'d', range=(0,4080))
    dls = data.dataloaders(parts=(range(6),range(6,8)), size=8, bs=2, num_workers=0)
    learn = Learner(dls, Small(), loss_func=CrossEntropyLossFlat())
    learn.export(tmp_path/'export.pkl')
    one,many = warm_call(predicted, tmp_path/'export.pkl', [tmp_path/f'd/{i}.dcm' for i in range(3)])
    dls = learn.dls.test_dl([tmp_path/f'd/{i}.dcm' for i in range(3)])
    x = dls.one_batch()[0]
    np.testing.assert_array_equal((x[:,0]*255).round().int().tolist(), linear(pixels[:2], 0, 4080))
    np.testing.assert_allclose(many, learn.get_preds(dl=dls)[0].tolist(), atol=1e-6)
    np.testing.assert_allclose(one, many[0], atol=1e-6)
