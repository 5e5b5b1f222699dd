"""Images that are prepared once, against fastai's own loaders, to the last bit: whatever the files hold, while
processes are killed, write at the same time, or find the files changed, the disk full, or a store that is damaged or
not theirs."""
import copy
import errno
import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import stat
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import PILImage, Resize, ToTensor
from PIL import Image, ImageFile, UnidentifiedImageError

from fastai_balmix.datasets import (
    ArrayImages,
    ImageData,
    NoStore,
    clean_stores,
    origins,
    pictures as room_of_pictures,
    pictures_in_memory,
    places,
    plan_store,
    prepare,
    prepared as room,
    seen,
    stores,
)

fork = get_context('fork')
quiet = partial(prepare, progress=False, num_workers=0)

def noise(k, shape=(40,52,3), high=256, dtype=np.uint8):
    return np.random.default_rng(k).integers(0, high, shape).astype(dtype)

def write_files(folder, n=12):
    "Pictures of all kinds: JPEGs in each orientation, 16 bits, grey, palettes, transparent ones, several frames"
    folder.mkdir(exist_ok=True)
    for k in range(n):
        exif = Image.Exif()
        exif[0x112] = k%8+1
        Image.fromarray(noise(k, (40+k,52,3))).save(folder/f'{k:02}.jpg', exif=exif.tobytes())
    Image.fromarray(noise(1, (30,20), 65536, np.uint16)).save(folder/'deep.png')
    Image.fromarray(noise(2, (30,20))).save(folder/'grey.png')
    Image.fromarray(noise(3, (30,20,4)), 'RGBA').save(folder/'alpha.png')
    Image.fromarray(noise(4)).convert('P').save(folder/'palette.gif')
    Image.fromarray(noise(5)).convert('CMYK').save(folder/'cmyk.jpg')
    Image.fromarray(noise(6)).save(folder/'one.webp')
    frames = [Image.fromarray(noise(k)) for k in (7,8)]
    frames[0].save(folder/'frames.tif', save_all=True, append_images=frames[1:])
    return folder

def make_data(folder, names=None, **kwargs):
    names = sorted(o.name for o in folder.iterdir() if o.is_file() and not o.name.startswith('.')) \
        if names is None else names
    df = pd.DataFrame(dict(path=names, label=['ab'[k%2] for k in range(len(names))]))
    return ImageData(df, vocab=['a','b'], root=folder, **kwargs)

def sources(data): return [source for source,_ in data.items()]

def plain(data, size=24, **kwargs):
    "All images as fastai's loader makes them, (N,3,H,W) uint8"
    n = len(data)
    dls = data.dataloaders(parts=(range(n-1),[n-1]), size=size, bs=1, num_workers=0, **kwargs)
    items = [dl.do_item(i) for dl in dls.loaders for i in range(len(dl.dataset))]
    return torch.stack([torch.as_tensor(np.asarray(x)) for x,_ in items])

def same(pictures, data, expected):
    rows = pictures.rows(sources(data))
    assert torch.equal(pictures.gather(rows), expected)
    for k in 0,len(rows)-1:
        im = pictures.picture(int(rows[k]))
        assert type(im) is PILImage and im.mode=='RGB' and torch.equal(ToTensor()(im), expected[k])

@pytest.fixture(scope='module')
def files(tmp_path_factory): return write_files(tmp_path_factory.mktemp('files')/'all')

@pytest.fixture(name='folder')
def of_its_own(files, tmp_path):
    res = tmp_path/'data'
    shutil.copytree(files, res)
    return res

def marks(pictures):
    "What the index of a store says, by name"
    names,rows = origins.read_index(pictures.folder, pictures.places.settings, pictures.places.place)
    return {name: row for name,row,ok in zip(names, rows, origins.are_made(names, rows)) if ok}

# To the last bit

settings = {'': {}, 'wide': dict(size=(20,31)), 'fast': dict(size=9, decode='fast'), 'range': dict(range=(0,30_000)),
            'frame': dict(frame=1), 'background': dict(background='red')}

@pytest.mark.parametrize('name', settings)
def test_images_are_those_of_a_plain_loader(folder, name):
    options = dict(settings[name])
    of_data = {k: options.pop(k) for k in ('range','frame','background') if k in options}
    if 'frame' in of_data: shutil.copy(folder/'frames.tif', folder/'again.tif')
    names = ['frames.tif','again.tif'] if 'frame' in of_data else None # others have one frame
    data = make_data(folder, names, **of_data)
    size = options.pop('size', 24)
    expected = plain(data, size, **options)
    pictures = quiet(data, size, **options)
    assert len(marks(pictures))==len(data) # nothing is left to be made
    same(pictures, data, expected)
    same(pictures_in_memory(data, size, **options), data, expected)
    same(quiet(data, size, **options), data, expected) # what is there already

def test_dicom_files_too(folder):
    testdata = pytest.importorskip('pydicom.data')
    for name in 'CT_small.dcm','MR_small.dcm': shutil.copy(testdata.get_testdata_file(name), folder/name)
    data = make_data(folder, ['CT_small.dcm','MR_small.dcm'], range=(-1000,3000))
    same(quiet(data, 24), data, plain(data))

def test_images_in_arrays_are_kept_in_memory():
    arrays = noise(0, (20,12,10))
    df = pd.DataFrame(dict(path=[f'x/{k}' for k in range(20)], label=['a','b']*10))
    data = ImageData(df, vocab=['a','b'], images=ArrayImages(lambda: dict(x=arrays)))
    expected = plain(data, 8)
    pictures = pictures_in_memory(data, 8)
    same(pictures, data, expected)
    same(pictures, data, expected)
    with pytest.raises(NoStore, match='do not lie in files'): quiet(data, 8)
    assert pictures.folder is None and 'in memory' in repr(pictures)

def test_any_rows_in_any_order(folder):
    data = make_data(folder)
    expected,pictures = plain(data),quiet(data, 24)
    rng = np.random.default_rng(0)
    for n in 0,1,2,7,64:
        some = rng.integers(0, len(data), n)
        rows = pictures.rows([sources(data)[k] for k in some])
        out = torch.zeros((n,3,24,24), dtype=torch.uint8)
        for kind in (lambda o: o), list, torch.as_tensor:
            got = pictures.gather(kind(rows), out)
            assert got is out and torch.equal(out, expected[some]) and got.is_contiguous()

def test_a_table_of_some_of_the_files_uses_the_same_store(folder):
    data = make_data(folder)
    whole = quiet(data, 24)
    part = data.subset([5,3,9])
    assert plan_store(part, 24).n_new==0
    pictures = quiet(part, 24)
    assert pictures.folder==whole.folder
    same(pictures, part, plain(data)[[5,3,9]])
    with pytest.raises(KeyError, match='nowhere'): pictures.rows([folder/'nowhere.jpg'])

def test_what_is_random_in_training_is_not_prepared(folder):
    data = make_data(folder)
    for resize in 'crop','pad':
        with pytest.raises(ValueError, match="'resize' parameter of prepare must be 'squish'"): quiet(data, 24, resize)
        assert not (folder/'.balmix_cache').exists()
        x = PILImage.create(folder/'00.jpg')
        drawn = {Resize(24, method=resize)(x, split_idx=0).tobytes() for _ in range(9)}
        assert len(drawn)>1 # so it would be wrong to keep one

def test_preparing_draws_no_random_numbers(folder):
    data = make_data(folder)
    random.seed(0)
    before = random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state().tolist()
    pictures = quiet(data, 24)
    pictures.gather(pictures.rows(sources(data)))
    assert (random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state().tolist())==before

# Files that cannot be opened, and files that change

def test_what_cannot_be_opened_raises_what_a_loader_raises(folder):
    (folder/'broken.jpg').write_bytes(b'no image')
    half = (folder/'00.jpg').read_bytes()
    (folder/'half.jpg').write_bytes(half[:len(half)//2])
    data = make_data(folder)
    pictures = quiet(data, 24)
    assert {*marks(pictures)}=={*data.df.path}-{'broken.jpg','half.jpg'}
    rows = dict(zip(data.df.path, pictures.rows(sources(data))))
    for _ in range(2):
        with pytest.raises(UnidentifiedImageError): pictures.gather([rows['00.jpg'],rows['broken.jpg']])
        with pytest.raises(OSError, match='truncated'): pictures.picture(rows['half.jpg'])

def test_what_is_opened_leniently_is_not_kept(folder, monkeypatch):
    half = (folder/'00.jpg').read_bytes()
    (folder/'half.jpg').write_bytes(half[:len(half)//2])
    data = make_data(folder, ['half.jpg','01.jpg'])
    with monkeypatch.context() as m:
        m.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
        pictures = quiet(data, 24)
        same(pictures, data, plain(data))
    with pytest.raises(OSError, match='truncated'): pictures.gather(pictures.rows(sources(data)))

def test_a_file_that_is_repaired_later_is_made_and_kept(folder):
    good = (folder/'00.jpg').read_bytes()
    (folder/'00.jpg').write_bytes(b'')
    data = make_data(folder)
    pictures = quiet(data, 24)
    (folder/'00.jpg').write_bytes(good)
    same(pictures, data, plain(data))
    (folder/'00.jpg').unlink()
    row = pictures.rows([folder/'00.jpg'])
    assert pictures.gather(row).any()

@pytest.mark.parametrize('in_use', [False,True])
def test_changed_removed_and_added_files(folder, in_use):
    data = make_data(folder)
    first = quiet(data, 24)
    old,n_places = plain(data),len(first.places.names)
    was = {name: int(row) for name,row in zip(data.df.path, first.rows(sources(data)))}
    if not in_use: del first
    Image.fromarray(noise(90)).save(folder/'00.jpg') # changed
    os.utime(folder/'01.jpg', ns=(1,1)) # only its time
    (folder/'02.jpg').unlink()
    Image.fromarray(noise(91)).save(folder/'new.png')
    data2 = make_data(folder)
    assert plan_store(data2, 24).n_new==3
    second = quiet(data2, 24)
    same(second, data2, plain(data2))
    now = dict(zip(data2.df.path, second.rows(sources(data2))))
    if in_use:
        # what another process reads stays as it is
        assert torch.equal(first.gather([was[name] for name in data.df.path]), old)
        assert now['00.jpg']!=was['00.jpg'] and now['new.png']>=n_places
    else:
        assert now['00.jpg']==was['00.jpg'] and now['new.png']==was['02.jpg'] and len(second.places.names)==n_places
    assert now['03.jpg']==was['03.jpg']

def test_a_file_that_only_looks_changed_is_not_decoded_again(folder, monkeypatch):
    data = make_data(folder)
    quiet(data, 24)
    os.utime(folder/'01.jpg', ns=(1,1))
    with monkeypatch.context() as m:
        m.setattr(room_of_pictures.Opening, 'seen', lambda self, name: pytest.fail(f'{name} is opened'))
        quiet(data, 24)
    assert plan_store(data, 24).n_new==0

def test_a_new_file_of_the_same_size_and_time_is_found(folder):
    data = make_data(folder)
    quiet(data, 24)
    path = folder/'grey.png'
    state,content = os.stat(path),path.read_bytes()
    other = Image.open(path).transpose(0)
    other.save(path)
    content = path.read_bytes()+bytes(max(0, len(content)-path.stat().st_size))
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns,state.st_mtime_ns))
    same(quiet(data, 24), data, plain(data))

# Each file is read once

def test_a_file_is_read_once_for_hash_verification_and_pixels(folder, monkeypatch):
    (folder/'broken.jpg').write_bytes(b'no image')
    data = make_data(folder)
    reads,read_bytes = [],Path.read_bytes
    def counted(self):
        reads.append(self.name)
        return read_bytes(self)
    monkeypatch.setattr(Path, 'read_bytes', counted)
    monkeypatch.setattr(Image, 'open', opened := partial(_only_bytes, Image.open))
    quiet(data, 24)
    assert sorted(reads)==sorted(data.df.path)
    reads.clear()
    found,fingerprint = data.verify(0, progress=False),data.fingerprint
    assert not reads and found.opened==0 and found.bad.path.tolist()==['broken.jpg'] and opened
    (folder/'.balmix_verified.csv').unlink()
    assert make_data(folder).fingerprint==fingerprint
    again = make_data(folder).verify(0, progress=False)
    assert repr(again).split(':', 1)[1]==repr(found).split(':', 1)[1] and again.holds==found.holds

def _only_bytes(open_image, source, *args, **kwargs):
    assert not isinstance(source, str | Path)
    return open_image(source, *args, **kwargs)

# Processes

def test_several_processes_prepare(folder):
    for k in range(40): Image.fromarray(noise(k)).save(folder/f'more_{k}.png')
    data = make_data(folder)
    same(prepare(data, 24, num_workers=2, progress=False), data, plain(data))

@pytest.mark.parametrize('how', ['disk','memory'])
def test_forked_and_spawned_processes_share(folder, how):
    data = make_data(folder)
    pictures = quiet(data, 24) if how=='disk' else pictures_in_memory(data, 24)
    expected = plain(data)
    rows = pictures.rows(sources(data))
    p = fork.Process(target=pictures.gather, args=(rows,))
    p.start()
    p.join(60)
    assert p.exitcode==0 and pictures.places.made.all()
    for o in folder.glob('*.*'):
        if not o.name.startswith('.'): o.unlink() # what is gathered now was kept
    assert torch.equal(pictures.gather(rows), expected)
    assert copy.deepcopy(pictures) is pictures
    if how=='disk': assert torch.equal(pickle.loads(pickle.dumps(pictures)).gather(rows), expected)

@pytest.mark.slow
@pytest.mark.parametrize('how', ['disk','memory'])
def test_spawned_processes_share(folder, how):
    data = make_data(folder)
    pictures = quiet(data, 24) if how=='disk' else pictures_in_memory(data, 24)
    rows = pictures.rows(sources(data))
    p = get_context('spawn').Process(target=pictures.gather, args=(rows,))
    p.start()
    p.join(240)
    assert p.exitcode==0 and pictures.places.made.all()

def test_a_store_that_is_gone_is_nothing_to_an_exported_copy(folder):
    data = make_data(folder)
    pictures = quiet(data, 24)
    words = pickle.dumps(pictures)
    del pictures
    clean_stores(folder/'.balmix_cache')
    lost = pickle.loads(words)
    assert len(lost)==0 and lost.folder is None
    with pytest.raises(KeyError): lost.rows(sources(data))

def _prepare_in_child(data, pause=0):
    write = places.PlaceWriter.write
    def slowly(*args):
        time.sleep(pause) # so that a process is killed before it is done
        return write(*args)
    places.PlaceWriter.write = slowly
    prepare(data, 24, progress=False, num_workers=0)
    os._exit(0)

def many_small(folder, n=80):
    folder.mkdir()
    for k in range(n): Image.fromarray(noise(k, (30,30,3))).save(folder/f'{k:02}.png')
    return make_data(folder)

@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path):
    "What is marked is right after each, and the last one finishes"
    data = many_small(tmp_path/'data')
    expected = plain(data)
    rnd = random.Random(0)
    done,cut = [],0
    for _ in range(10):
        p = fork.Process(target=_prepare_in_child, args=(data,.01))
        p.start()
        time.sleep(rnd.uniform(0, .25))
        os.kill(p.pid, signal.SIGKILL)
        p.join(20)
        cut += p.exitcode!=0
        folders = [o.folder for o in stores.kept_stores(tmp_path/'data'/'.balmix_cache')]
        for folder in folders:
            try: names,rows = origins.read_index(folder, json.loads((folder/'store.json').read_bytes()), 1728)
            except (OSError,ValueError): continue # killed while it was made
            made = origins.are_made(names, rows)
            pixels = np.fromfile(folder/'pixels', np.uint8)
            for k in np.flatnonzero(made):
                got = pixels[k*1728:(k+1)*1728].reshape(3, 24, 24)
                assert (got==expected[data.df.path.tolist().index(names[k])].numpy()).all()
            done.append(int(made.sum()))
    assert cut and done==sorted(done) # what is finished is not made again
    pictures = quiet(data, 24)
    same(pictures, data, expected)
    assert len(pictures.places.names)==len(data) # and no place was lost

def test_two_processes_prepare_at_the_same_time(tmp_path):
    data = many_small(tmp_path/'data')
    ps = [fork.Process(target=_prepare_in_child, args=(data,)) for _ in range(3)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    assert [p.exitcode for p in ps]==[0,0,0]
    pictures = quiet(data, 24)
    assert len(pictures.places.names)==len(data)
    same(pictures, data, plain(data))

def test_two_processes_make_the_same_images_in_one_store(tmp_path):
    data = many_small(tmp_path/'data', 20)
    good = {o: o.read_bytes() for o in data.root.glob('*.png')}
    for o in good: o.write_bytes(b'') # nothing can be prepared yet
    pictures = quiet(data, 24)
    for o,content in good.items(): o.write_bytes(content)
    rows = pictures.rows(sources(data))
    ps = [fork.Process(target=pictures.gather, args=(rows[::step],)) for step in (1,-1)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    expected = plain(data)
    assert [p.exitcode for p in ps]==[0,0] and all(pictures.places.is_made(int(row)) for row in rows)
    same(pictures, data, expected)

# Room, rights and damage

def full_after(n):
    "A `pwrite` for a disk with room for `n` more bytes"
    left,pwrite = [n],os.pwrite
    def write(fd, data, at):
        if left[0]<len(data): raise OSError(errno.ENOSPC, 'No space left on device')
        left[0] -= len(data)
        return pwrite(fd, data, at)
    return write

def test_a_full_disk_is_a_sentence_and_what_was_written_goes(folder, monkeypatch):
    data = make_data(folder)
    with monkeypatch.context() as m:
        m.setattr(os, 'pwrite', full_after(5*24*24*3))
        with pytest.raises(NoStore, match='cannot be written to .*: No space left'): quiet(data, 24)
    assert not stores.kept_stores(folder/'.balmix_cache')
    same(quiet(data, 24), data, plain(data))

def test_a_disk_that_is_full_in_training_costs_nothing_but_time(folder, monkeypatch):
    good = (folder/'00.jpg').read_bytes()
    (folder/'00.jpg').write_bytes(b'')
    data = make_data(folder)
    pictures = quiet(data, 24)
    (folder/'00.jpg').write_bytes(good)
    with monkeypatch.context() as m:
        m.setattr(os, 'pwrite', full_after(100))
        same(pictures, data, plain(data))
        assert '00.jpg' not in marks(pictures)

def test_memory_that_is_full_costs_nothing_but_time(folder, monkeypatch):
    data = make_data(folder)
    pictures = pictures_in_memory(data, 24)
    with monkeypatch.context() as m:
        m.setattr(os, 'pwrite', full_after(3*24*24*3))
        same(pictures, data, plain(data))
    assert pictures.places.made.sum()==3

def test_at_most_half_of_the_free_memory(folder, monkeypatch):
    data = make_data(folder)
    assert room_of_pictures.free_memory() is None or room_of_pictures.free_memory()>2**20
    for free in None,2*len(data)*24*24*3,2*len(data)*24*24*3-2:
        monkeypatch.setattr(room_of_pictures, 'free_memory', lambda free=free: free)
        if free is None or free%4==0: same(pictures_in_memory(data, 24), data, plain(data))
        else:
            with pytest.raises(NoStore, match='would take 32.8 kB of memory, of which 65.7 kB are free'):
                pictures_in_memory(data, 24)

def test_at_most_a_fifth_of_the_free_disk(folder, monkeypatch):
    data = make_data(folder)
    usage = shutil.disk_usage(folder)
    n_bytes = len(data)*24*24*3
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=5*n_bytes-5))
    for function in quiet,plan_store:
        with pytest.raises(NoStore, match='a fifth of the free disk'): function(data, 24)
    assert not stores.kept_stores(folder/'.balmix_cache')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=5*n_bytes+10**6))
    same(quiet(data, 24), data, plain(data))

def test_the_least_recently_used_goes_first_and_none_that_is_in_use(folder):
    data = make_data(folder)
    sizes = 64,65,66
    made = {size: quiet(data, size).folder for size in sizes}
    for k,size in enumerate([65,66,64]): os.utime(made[size]/'used', (k,k))
    in_use = quiet(data, 65) # the least recently used until now
    os.utime(made[65]/'used', (0,0))
    taken = {o.folder: o.n_bytes for o in stores.kept_stores(folder/'.balmix_cache')}
    n_bytes = 67*67*3*len(data)
    limit = n_bytes+taken[made[65]]+taken[made[64]]+10_000
    last = quiet(data, 67, limit=limit)
    assert [made[size].exists() for size in sizes]==[True,True,False]
    same(last, data, plain(data, 67))
    same(in_use, data, plain(data, 65))
    with pytest.raises(NoStore, match='the limit is'): quiet(data, 80, limit=limit//9)
    assert made[64].exists() # nothing goes where that would not suffice

def test_files_are_their_owners_only(folder):
    old = os.umask(0)
    try: pictures = quiet(make_data(folder), 24)
    finally: os.umask(old)
    for o in [pictures.folder,pictures.folder.parent]: assert stat.S_IMODE(o.stat().st_mode)==0o700
    found = [*pictures.folder.iterdir()]
    assert {o.name for o in found}=={'store.json','names.json','index','pixels','used','lock'}
    assert {stat.S_IMODE(o.stat().st_mode) for o in found}=={0o600}

def test_a_folder_that_cannot_be_written(folder, monkeypatch):
    data = make_data(folder)
    def refuse(self, *args, **kwargs): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(NoStore, match="cannot be written to '.*balmix_cache': Permission denied"): quiet(data, 24)

def test_a_read_only_folder(folder):
    if os.geteuid()==0: pytest.skip('root may write anywhere')
    folder.chmod(0o500)
    try:
        with pytest.raises(NoStore, match='cannot be written'): quiet(make_data(folder), 24)
    finally: folder.chmod(0o700)

def test_a_folder_of_another_user(folder, monkeypatch):
    data = make_data(folder)
    monkeypatch.setattr(os, 'geteuid', lambda: os.getuid()+1)
    with pytest.raises(NoStore, match='belongs to another user'): quiet(data, 24)

def test_links_are_not_followed(folder, tmp_path):
    data = make_data(folder)
    store = quiet(data, 24).folder
    shutil.move(store, tmp_path/'elsewhere')
    store.symlink_to(tmp_path/'elsewhere')
    with pytest.raises(NoStore, match='is a link'): quiet(data, 24)
    store.unlink()
    shutil.move(tmp_path/'elsewhere', store)
    target = tmp_path/'precious'
    target.write_bytes(b'data')
    (store/'pixels').unlink()
    (store/'pixels').symlink_to(target)
    with pytest.raises(NoStore): quiet(data, 24)
    assert target.read_bytes()==b'data'

def edit(path, change): path.write_text(json.dumps(change(json.loads(path.read_text()))))

damages = {
    'index cut off': lambda o: os.truncate(o/'index', 300),
    'index of noise': lambda o: (o/'index').write_bytes(noise(0, 128*19).tobytes()),
    'a row of another': lambda o: (o/'index').write_bytes((o/'index').read_bytes()[128:256]*19),
    'no index': lambda o: (o/'index').unlink(),
    'names of another kind': lambda o: (o/'names.json').write_text('{"a": 1}'),
    'names twice': lambda o: (o/'names.json').write_text('["00.jpg","00.jpg"]'),
    'names exchanged': lambda o: edit(o/'names.json', lambda names: names[::-1]),
    'no names': lambda o: (o/'names.json').unlink(),
    'names that are no JSON': lambda o: (o/'names.json').write_bytes(pickle.dumps(print)),
    'pixels cut off': lambda o: os.truncate(o/'pixels', 5000),
    'no pixels': lambda o: (o/'pixels').unlink(),
    'another version': lambda o: edit(o/'store.json', lambda settings: settings | {'format': 99}),
    'no settings': lambda o: (o/'store.json').unlink(),
    'nested': lambda o: (o/'store.json').write_text('['*10**5),
}

@pytest.mark.thinned(5)
@pytest.mark.parametrize('name', damages)
def test_a_damaged_or_foreign_store_is_made_anew(folder, name):
    data = make_data(folder)
    store = quiet(data, 24).folder
    damages[name](store)
    same(quiet(data, 24), data, plain(data))

def test_a_store_of_another_version_is_another(folder, monkeypatch):
    data = make_data(folder)
    first = quiet(data, 24)
    for change in (room.PIL, '__version__', '99.0'), (room, '_format', 99):
        with monkeypatch.context() as m:
            m.setattr(*change)
            assert plan_store(data, 24).n_new==len(data) and quiet(data, 24).folder!=first.folder
    keys = {quiet(make_data(folder, **kwargs), 24).folder
            for kwargs in ({},dict(range=(0,9)),dict(background='red'))}
    assert len(keys | {quiet(data, (24,25)).folder,quiet(data, 24, decode='fast').folder})==5

def test_a_folder_that_is_given(folder, tmp_path):
    data,other = make_data(folder),make_data(write_files(tmp_path/'other'))
    kept = tmp_path/'cache'
    first,second = quiet(data, 24, folder=kept),quiet(other, 24, folder=kept)
    assert first.folder.parent==second.folder.parent==kept and first.folder!=second.folder
    assert not (folder/'.balmix_cache').exists()
    same(first, data, plain(data))

def test_cleaning_frees_what_is_not_in_use(folder):
    data = make_data(folder)
    quiet(data, 24)
    kept = quiet(data, 25)
    strange = folder/'.balmix_cache'/('a'*16)
    strange.mkdir()
    (strange/'letter.txt').write_text('not ours')
    removed,in_use = clean_stores(folder/'.balmix_cache')
    assert [o.folder for o in in_use]==[kept.folder] and any(o.n_bytes>len(data)*24*24*3 for o in removed)
    assert (strange/'letter.txt').read_text()=='not ours'
    same(kept, data, plain(data, 25))
    shutil.rmtree(strange)
    del kept
    clean_stores(folder/'.balmix_cache')
    assert not (folder/'.balmix_cache').exists() and clean_stores(folder/'nowhere')==([],[])

def test_cleaning_leaves_what_was_there_before(folder, tmp_path):
    data,cache = make_data(folder),tmp_path/'repo'
    cache.mkdir()
    (cache/'.gitignore').write_text('secrets.env\n')
    for kept in cache,tmp_path/'new':
        quiet(data, 24, folder=kept)
        assert clean_stores(kept)[0]
    assert [o.name for o in cache.iterdir()]==['.gitignore'] and not (tmp_path/'new').exists()
    assert (cache/'.gitignore').read_text()=='secrets.env\n'
    (cache/'.gitignore').write_text('*\n') # as the package has it, but in a folder with other files
    (cache/'thesis.tex').touch()
    quiet(data, 24, folder=cache)
    assert not (cache/'CACHEDIR.TAG').exists() and clean_stores(cache)[0]
    assert (cache/'.gitignore').read_text()=='*\n'

def test_a_link_that_came_with_the_data_is_not_followed(folder, tmp_path):
    data,home = make_data(folder),tmp_path/'home'
    home.mkdir()
    (folder/'.balmix_cache').symlink_to(home)
    link = r"\.balmix_cache' is a link, and is not followed\. Name another folder"
    for f in (lambda: quiet(data, 24), lambda: plan_store(data, 24), lambda: clean_stores(folder/'.balmix_cache')):
        with pytest.raises(NoStore, match=link): f()
    with pytest.warns(UserWarning, match=link): data.verify(size=24, num_workers=0, progress=False)
    assert not [*home.iterdir()]
    (tmp_path/'link').symlink_to(home)
    quiet(data, 24, folder=tmp_path/'link') # which a user has named
    assert [*home.iterdir()]

# What is said

def test_size_place_and_time_are_said(folder):
    data = make_data(folder)
    plan = plan_store(data, 24)
    assert (plan.n_images,plan.n_new,plan.n_bytes)==(len(data),len(data),len(data)*24*24*3) and plan.seconds>0
    assert str(plan).startswith(f"{len(data)} images at 24 × 24, 32.8 kB in '") and str(plan).endswith('about 1 s')
    assert not (folder/'.balmix_cache').exists() # nothing is made
    quiet(data, 24)
    assert str(plan_store(data, 24)).endswith('prepared already')
    Image.fromarray(noise(90)).save(folder/'new.png')
    assert '1 of them new, ' in str(plan_store(make_data(folder), 24))

@pytest.mark.parametrize('screen', [True,False])
def test_a_bar_counts_images_on_a_screen(folder, capsys, monkeypatch, screen):
    monkeypatch.setattr(seen, 'is_screen', lambda: screen)
    data = make_data(folder)
    data.verify(0)
    prepare(data, 24, num_workers=0)
    out = capsys.readouterr().out
    assert out.count(f'[{len(data)}/{len(data)}')==2 if screen else out==''

def test_what_is_kept_of_verification_is_as_before(folder):
    data = make_data(folder)
    quiet(data, 24)
    kept = seen._read_kept(folder/'.balmix_verified.csv')
    assert {*kept}=={*data.df.path} and all(row.kind for row in kept.values())

def test_the_command_cleans_and_says_what_is_freed(folder, monkeypatch, capsys):
    from fastai_balmix.compare.cli import balmix_data
    for name in 'ab':
        (folder/name).mkdir()
        for k in range(4): shutil.copy(folder/f'0{k}.jpg', folder/name/f'{k}.jpg')
    for o in folder.glob('*.*'):
        if o.is_file(): o.unlink()
    data = make_data(folder, [f'{name}/{k}.jpg' for name in 'ab' for k in range(4)])
    def said():
        balmix_data(str(folder), clean=True)
        return ' '.join(capsys.readouterr().out.split())
    quiet(data, 200)
    freed = rf"Removed [\d.]+ [kM]B of prepared images in '{folder}/.balmix_cache'\."
    assert re.fullmatch(freed, said()) and not (folder/'.balmix_cache').exists()
    quiet(data, 200)
    in_use = quiet(data, 24)
    assert re.fullmatch(freed+r' [\d.]+ [kM]B are in use and stay\.', said()) and in_use.folder.exists()
    del in_use
    assert re.fullmatch(freed, said())
    assert said()==f"Removed nothing, as '{folder}/.balmix_cache' holds no prepared images."


# In less room

def photographs(folder, n=6):
    "Smooth images, as photographs are, and one of noise that JPEG cannot shrink"
    folder.mkdir()
    for k in range(n): Image.fromarray(noise(k, (9,7,3))).resize((200,150)).save(folder/f'{k}.jpg', quality=97)
    Image.fromarray(noise(n, (6,6,3))).save(folder/'noise.png')
    return make_data(folder)

def as_jpeg(pixels):
    "What JPEG of quality 95 without coarser colours makes of images, (N,3,H,W)"
    res = []
    for one in pixels:
        file = io.BytesIO()
        Image.fromarray(one.permute(1,2,0).numpy()).save(file, 'JPEG', quality=95, subsampling=0)
        res.append(torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2,0,1))
    return torch.stack(res)

def test_compact_is_jpeg_of_quality_95(tmp_path):
    data = photographs(tmp_path/'photos')
    expected,raw = as_jpeg(plain(data, 96)),quiet(data, 96)
    pictures = quiet(data, 96, store='compact')
    same(pictures, data, expected)
    same(quiet(data, 96, store='compact'), data, expected)
    same(pickle.loads(pickle.dumps(pictures)), data, expected)
    off = (expected.float()-plain(data, 96).float()).abs().mean()
    assert 0<off<2
    taken = {o.folder: o.n_bytes for o in stores.kept_stores(tmp_path/'photos'/'.balmix_cache')}
    assert pictures.folder!=raw.folder and taken[pictures.folder]<.6*taken[raw.folder]
    plan = plan_store(data, 96, store='compact')
    assert 'at 96 × 96 as JPEG of quality 95, about ' in str(plan) and plan.n_new==0
    assert taken[pictures.folder]-20_000<plan.n_bytes<1.5*taken[pictures.folder]

def test_compact_keeps_pixels_that_jpeg_cannot_shrink(folder):
    data = make_data(folder)
    same(quiet(data, 4, store='compact'), data, plain(data, 4))

def test_a_compact_image_that_is_not_kept_is_the_same(tmp_path, monkeypatch):
    data = photographs(tmp_path/'photos')
    good = (tmp_path/'photos'/'0.jpg').read_bytes()
    (tmp_path/'photos'/'0.jpg').write_bytes(b'')
    pictures = quiet(data, 96, store='compact')
    (tmp_path/'photos'/'0.jpg').write_bytes(good)
    expected = as_jpeg(plain(data, 96))
    with monkeypatch.context() as m:
        m.setattr(os, 'pwrite', full_after(100))
        same(pictures, data, expected)
    same(pictures, data, expected)

def test_compact_has_room_where_pixels_have_none(tmp_path, monkeypatch):
    data = photographs(tmp_path/'photos')
    limit = len(data)*3*96**2//2
    with pytest.raises(NoStore, match='the limit is'): quiet(data, 96, limit=limit)
    same(quiet(data, 96, limit=limit, store='compact'), data, as_jpeg(plain(data, 96)))

@pytest.mark.parametrize('num_workers', [0,2])
def test_batches_of_a_compact_store(tmp_path, num_workers):
    data = photographs(tmp_path/'photos')
    dls = data.dataloaders(parts=([0],range(1, 7)), size=96, bs=1, val_bs=2, num_workers=num_workers,
                           pictures=quiet(data, 96, store='compact'))
    assert dls.valid.by_block()
    found = torch.cat([x for x,_ in dls.valid]).as_subclass(torch.Tensor)
    torch.testing.assert_close(found, as_jpeg(plain(data, 96))[1:]/255)
