"""Items as bytes, and the file that processes share. What the notebook shows on one picture is held here for every kind
of tensor, array and picture, for processes that write at the same time, and for processes that are killed while they
do."""
import copy
import errno
import os
import pickle
import signal
import threading
import time
from contextlib import suppress
from multiprocessing import get_context

import numpy as np
import pytest
import torch
import toys  # noqa: F401 # hypothesis' profile
from fastai.vision.all import PILImage, PILImageBW, PILMask, TensorCategory, TensorImage, TensorPoint
from hypothesis import given, strategies as st
from PIL import Image

from fastai_balmix.loaders import store as room
from fastai_balmix.loaders.store import Store, pack, packed_size, unpack

fork = get_context('fork')

def again(x): return unpack(memoryview(b''.join(pack(x))))

# Items as bytes

dtypes = torch.uint8,torch.int64,torch.float16,torch.bfloat16,torch.float32,torch.float64,torch.bool,torch.complex64
classes = torch.Tensor,TensorImage,TensorCategory

@given(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(dtypes), st.sampled_from(classes),
       st.randoms(use_true_random=False))
def test_tensors_come_back(shape, dtype, cls, rnd):
    t = torch.randint(0, 2, shape).to(dtype) if dtype is torch.bool else (torch.randn(shape)*9).to(dtype)
    dims = rnd.sample(range(len(shape)), len(shape))
    t = t.permute(dims)
    if cls is not torch.Tensor: t = t.as_subclass(cls)
    r = again((t,))[0]
    assert type(r) is cls and r.dtype==dtype and r.shape==t.shape
    assert torch.equal(r.as_subclass(torch.Tensor), t.as_subclass(torch.Tensor))
    # layout in memory, where it is told apart
    if t.numel() and 1 not in t.shape: assert r.stride()==t.stride()
    r.zero_() # may be written to

parts = dict(slice=torch.arange(12.).view(3,4)[:,::2], expanded=torch.ones(1).expand(3,4),
             part=torch.arange(6).view(2,3).t()[1:])

@pytest.mark.parametrize('t', parts.values(), ids=parts)
def test_parts_of_larger_tensors_come_back_without_the_rest(t):
    parts = pack((t,))
    assert sum(map(len, parts[2:]))==t.numel()*t.element_size()
    assert torch.equal(again((t,))[0], t)

def test_what_tensors_carry_comes_back():
    t = TensorPoint([[1.,2.]])
    t.img_size = (4,5)
    assert again((t,))[0].img_size==(4,5)
    p = torch.nn.Parameter(torch.ones(2))
    r = again((p,))[0]
    assert type(r) is torch.nn.Parameter and r.requires_grad and torch.equal(r, p)
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(again((sparse,))[0].to_dense(), torch.eye(3))

@given(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(['u1','i8','f2','f4','>f8','?','c8','M8[s]','U3','O']),
       st.sampled_from('CF'), st.booleans())
def test_arrays_come_back(shape, dtype, order, strided):
    a = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)
    a = np.asarray(a.astype('i8').astype(dtype), order=order)
    if strided and a.ndim: a = a[::2]
    r = again((a,))[0]
    assert type(r) is np.ndarray and r.dtype==a.dtype and r.shape==a.shape and np.array_equal(r, a)
    assert r.flags.writeable and (r.flags.c_contiguous or (a.flags.f_contiguous and r.flags.f_contiguous))

class Marked(np.ndarray): pass

def test_arrays_of_other_classes_come_back_in_memory_of_their_own():
    r = again((np.arange(3).view(Marked),))[0]
    assert type(r) is Marked and r.tolist()==[0,1,2] and r.flags.writeable

def picture(mode, size=(5,3)):
    rng = np.random.default_rng(0)
    dtype = {'I;16':np.uint16, 'I':np.int32, 'F':np.float32}.get(mode)
    if dtype is not None: return Image.fromarray(rng.integers(0, 60000, size[::-1]).astype(dtype))
    im = Image.fromarray(rng.integers(0, 256, (*size[::-1],3), dtype=np.uint8)).convert(mode)
    return im

@pytest.mark.parametrize('mode', ['1','L','P','RGB','RGBA','LA','CMYK','YCbCr','HSV','I;16','I','F'])
def test_pictures_come_back(mode):
    im = picture(mode)
    im.info['dpi'] = 72,72
    im.patient = 'p7'
    r = again((im,))[0]
    assert type(r) is type(im) and (r.mode,r.size,r.info,r.patient)==(im.mode,im.size,im.info,'p7')
    assert r.tobytes()==im.tobytes() and r.convert('RGB').tobytes()==im.convert('RGB').tobytes()
    r.putpixel((0,0), r.getpixel((1,1))) # may be written to

@pytest.mark.parametrize('cls', [PILImage,PILImageBW,PILMask])
def test_fastais_pictures_come_back(cls, tmp_path):
    picture('RGB').save(tmp_path/'a.png')
    im = cls.create(tmp_path/'a.png')
    r = again((im,))[0]
    assert type(r) is cls and (r.mode,r.size)==(im.mode,im.size) and r.tobytes()==im.tobytes()

def test_a_file_that_is_not_read_yet_comes_back(tmp_path):
    picture('RGB').save(tmp_path/'a.png')
    im = Image.open(tmp_path/'a.png')
    assert again((im,))[0].tobytes()==picture('RGB').tobytes()

@pytest.mark.parametrize('x', [(), None, 'word', (torch.ones(2),{'a':[picture('L'),np.ones(3)]},'s',2.5)],
                         ids=['empty','None','word','nested'])
def test_whatever_pickles_comes_back(x): assert repr(again(x))==repr(x)

def test_what_does_not_pickle_is_not_kept():
    s = Store(10_000, [100])
    s.put(0, (lambda: 1,))
    assert s.get(0) is None and s.used==0 and s.counts.tolist()==[[0,1,0]]

def test_changes_in_place_do_not_reach_what_is_kept():
    s = Store(10_000, [100])
    t,a,im = torch.zeros(3),np.zeros(3),picture('RGB')
    s.put(0, (t,a,im))
    for o in (t,a): o += 1
    for _ in range(2):
        t1,a1,im1 = unpack(s.get(0))
        assert not t1.any() and not a1.any() and im1.getpixel((0,0))==picture('RGB').getpixel((0,0))
        t1 += 1
        a1 += 1
        im1.putpixel((0,0), (1,2,3))
    with pytest.raises(TypeError): s.get(0)[0] = 1

# The store

def sized(n): return torch.zeros(n, dtype=torch.uint8)

@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.integers(0, 40_000),
       st.randoms(use_true_random=False))
def test_never_larger_than_it_was_made(sizes, room_for, rnd):
    n = len(sizes)
    s = Store(Store.overhead(n)+room_for, [1000]*n, rnd.sample(range(n), n))
    for k in rnd.choices(range(n), k=60): s.put(k, sized(sizes[k]))
    assert os.fstat(s.file.fileno()).st_size==s.n_bytes and s.used<=room_for
    kept = [k for k in range(n) if s.get(k) is not None]
    for k in kept: assert len(unpack(s.get(k)))==sizes[k]
    assert s.used==sum(packed_size(pack(sized(sizes[k]))) for k in kept) and s.counts[0,2]==len(kept)

@given(st.integers(1, 20), st.integers(0, 25), st.randoms(use_true_random=False))
def test_items_are_kept_in_order_whatever_comes_first(n, fit, rnd):
    "Also where sizes differ, as long as they are what was expected"
    order = rnd.sample(range(n), n)
    n_zeros = [rnd.choice([100,1000]) for _ in range(n)]
    sizes = [packed_size(pack(sized(o))) for o in n_zeros]
    s = Store(Store.overhead(n)+sum(sizes[k] for k in order[:fit]), sizes, order)
    for k in rnd.sample(range(n), n): s.put(k, sized(n_zeros[k]))
    assert {k for k in range(n) if s.get(k) is not None}=={*order[:fit]}

def test_items_larger_than_expected_leave_out_the_last():
    n,size = 40,packed_size(pack(sized(1000)))
    s = Store(Store.overhead(n)+20*size, [size//2]*n)
    for _ in range(3):
        for k in range(n): s.put(k, sized(1000))
    kept = [k for k in range(n) if s.get(k) is not None]
    assert kept[:15]==[*range(15)] and 18<=len(kept)<=20

def test_counts_are_each_loaders_own():
    s = Store(100_000, [100,100], n_loaders=2)
    s.put(0, 'a', 1)
    for k,loader in (0,0),(0,1),(1,1),(0,1): s.get(k, loader)
    assert s.counts.tolist()==[[1,0,0],[2,1,1]]

def test_the_file_has_no_name_and_goes_with_the_store(tmp_path):
    s = Store(1_000_000, [100], folder=tmp_path)
    fd = s.file.fileno()
    assert [*tmp_path.iterdir()]==[] and os.fstat(fd).st_nlink==0 and os.fstat(fd).st_blocks*512>=1_000_000
    del s
    with pytest.raises(OSError): os.fstat(fd)

def test_no_room_is_known_when_it_is_made(tmp_path):
    with pytest.raises(OSError) as e: Store(10**16, [100], folder=tmp_path)
    assert e.value.errno in (errno.ENOSPC,errno.EFBIG) and [*tmp_path.iterdir()]==[]
    with pytest.raises(OSError): Store(1000, [100], folder='/proc')

def test_systems_without_fallocate_write_every_block(monkeypatch):
    monkeypatch.delattr(os, 'posix_fallocate')
    s = Store(2**20+5000, [100])
    st_ = os.fstat(s.file.fileno())
    assert st_.st_size==2**20+5000 and st_.st_blocks*512>=2**20
    s.put(0, 'a')
    assert unpack(s.get(0))=='a'

def test_systems_without_locks_on_files_have_no_store(monkeypatch):
    monkeypatch.setattr(room, 'fcntl', None)
    with pytest.raises(OSError, match='no locks on files'): Store(1000, [100])

def test_copies_share_and_pickles_do_without():
    s = Store(10_000, [100])
    assert copy.deepcopy(s) is s and pickle.loads(pickle.dumps(s)) is None

# Several processes

def write_all(s, order):
    for k in order:
        if s.get(k) is None: s.put(k, torch.full((50,), float(k)))

def test_processes_that_write_at_the_same_time():
    n,size = 200,packed_size(pack(torch.zeros(50)))
    s = Store(Store.overhead(n)+150*size, [size]*n)
    orders = [np.random.default_rng(k).permutation(n).tolist() for k in range(4)]
    ps = [fork.Process(target=write_all, args=(s,o)) for o in orders]
    for p in ps: p.start()
    for p in ps: p.join(60)
    assert all(p.exitcode==0 for p in ps)
    for k in range(n):
        mem = s.get(k)
        assert (mem is None)==(k>=150)
        if mem is not None: assert (unpack(mem)==k).all()
    # each item once, every look-up counted
    assert s.counts[0,2]==150 and s.used==150*size and s.counts[0,:2].sum()==n*(1+len(ps))

@pytest.mark.slow
def test_a_process_that_is_spawned_is_handed_the_file():
    s = Store(10_000, [100,100])
    s.put(0, 'a')
    for target,args in (s.put,(1,'b')),(s.get,(0,)):
        p = get_context('spawn').Process(target=target, args=args)
        p.start()
        p.join(120)
        assert p.exitcode==0
    assert unpack(s.get(1))=='b' and s.counts.tolist()==[[2,0,2]]

def write_for_ever(s):
    i = 0
    while True:
        s.get(0)
        s.put(i%len(s.at), torch.full((2000,), float(i%len(s.at))))
        s.at[i%len(s.at)] = 0 # so that it writes again
        i += 1

def test_killed_writers_leave_no_lock_and_nothing_half_written():
    n = 20
    for k in range(12):
        s = Store(3_000_000, [9000]*n)
        p = fork.Process(target=write_for_ever, args=(s,))
        p.start()
        time.sleep(.002*(k+1))
        os.kill(p.pid, signal.SIGKILL)
        p.join(10)
        write_all(s, range(n)) # would wait for ever for a lock that is still held
        for i in range(n):
            mem = s.get(i)
            if mem is not None: assert (unpack(mem)==i).all()

def test_a_lock_left_by_ctrl_c_is_freed():
    s = Store(10_000, [100])
    room.fcntl.lockf(s.file, room.fcntl.LOCK_EX) # as when Ctrl-C comes between taking the lock and what follows
    p = fork.Process(target=s.get, args=(0,))
    p.start()
    p.join(.5)
    assert p.is_alive()
    s.unlock()
    p.join(10)
    assert p.exitcode==0

def test_a_lock_is_freed_where_ctrl_c_comes_as_it_is_taken(monkeypatch):
    s,lockf = Store(10_000, [100]),room.fcntl.lockf
    def interrupted(file, how):
        lockf(file, how)
        if how==room.fcntl.LOCK_EX: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(room.fcntl, 'lockf', interrupted)
        with pytest.raises(KeyboardInterrupt): s.get(0)
    p = fork.Process(target=s.get, args=(0,))
    p.start()
    p.join(10)
    assert p.exitcode==0

@pytest.mark.slow
def test_killed_writers_lose_neither_items_nor_room():
    "Items are large, so that most are killed while they write"
    n,x = 6,sized(3_000_000)
    size = packed_size(pack(x))
    for k in range(15):
        s = Store(Store.overhead(n)+n*size, [size]*n)
        p = fork.Process(target=lambda: [s.put(i, x) for i in range(n)])
        p.start()
        while s.head[1]==size and p.is_alive(): pass # until it is about to write
        time.sleep(.0005*k)
        os.kill(p.pid, signal.SIGKILL)
        p.join(10)
        for i in range(n): s.put(i, x)
        assert all(s.get(i) is not None and len(unpack(s.get(i)))==len(x) for i in range(n))
        assert s.used==n*size and s.counts[0,2]==n

@pytest.mark.parametrize('n_done', range(6))
def test_what_a_killed_process_could_not_note_is_noted_by_the_next(n_done):
    "Stopped after each of the numbers that are written when an item is noted"
    size = packed_size(pack(sized(1000)))
    s = Store(Store.overhead(3)+3*size, [size]*3)
    s.put(0, sized(1000))
    class Killed(Exception): pass
    class Dying:
        "An array that takes so many writes"
        left = n_done
        def __init__(self, array): self.array = array
        def __getitem__(self, k): return self.array[k]
        def __setitem__(self, k, value):
            if Dying.left==0: raise Killed
            Dying.left -= 1
            self.array[k] = value
    plain = s.head,s.at,s.counts
    s.head,s.at,s.counts = map(Dying, plain)
    with suppress(Killed): s.put(1, sized(1000))
    s.head,s.at,s.counts = plain
    for k in 1,2: s.put(k, sized(1000))
    assert all(len(unpack(s.get(k)))==1000 for k in range(3)) and s.used==3*size and s.counts[0,2]==3

def alone_in_a_thread(s):
    "A thread that is alone with the file, and the event after which it leaves"
    held,leave = threading.Event(),threading.Event()
    def hold():
        held.set()
        leave.wait(60)
    thread = threading.Thread(target=s.alone, args=(hold,))
    thread.start()
    held.wait(60)
    return thread,leave

def test_a_fork_while_a_thread_is_alone_with_the_file_does_not_hang():
    s = Store(10_000, [100])
    thread,leave = alone_in_a_thread(s)
    p = fork.Process(target=s.get, args=(0,))
    p.start()
    p.join(.3)
    assert p.is_alive() # the thread of the parent is alone
    leave.set()
    thread.join(60)
    p.join(20)
    hung = p.is_alive()
    if hung: p.kill()
    assert not hung and p.exitcode==0

def test_nobody_frees_the_lock_of_another_thread():
    s = Store(10_000, [100])
    thread,leave = alone_in_a_thread(s)
    other = threading.Thread(target=s.unlock)
    other.start()
    other.join(.2)
    p = fork.Process(target=s.get, args=(0,))
    p.start()
    p.join(.5)
    waits = p.is_alive()
    leave.set()
    for o in thread,other,p: o.join(20)
    assert waits and p.exitcode==0
