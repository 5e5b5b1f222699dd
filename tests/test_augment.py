"""Augmentation by the batch against augmentation by the item, which is torchvision's: the same distribution of
parameters and of pixels, and nothing done to what nothing was drawn for."""
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as T
from fastai.vision.all import PILImage, TensorCategory, TensorImage, image2tensor
from PIL import Image, ImageEnhance
from scipy.stats import binomtest, chisquare, ks_2samp

from fastai_balmix.datasets import augment
from fastai_balmix.datasets.augment import augmentation, batch_augmentation, coloured, draw_moves, moved

N = 4000

@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)

def image(height, width, low=0, high=256, seed=0):
    rng = np.random.default_rng(seed)
    return PILImage.create(rng.integers(low, high, (height,width,3), dtype=np.uint8))

# Parameters

def alike(a, b): assert ks_2samp(a, b).pvalue>1e-3

def test_parameters_follow_torchvision_s():
    height,width = 40,60
    drawn = draw_moves(3*N, height, width, scale=[.7,1.4], shift=.3, rotate=50, jitter=.4)
    def affine(**kwargs): return T.RandomAffine(**{'degrees':0, **kwargs})
    def theirs(t):
        return [t.get_params(t.degrees, t.translate, t.scale, t.shear, [width,height]) for _ in range(N)]
    angle,shift,scale = (theirs(affine(**o)) for o in (dict(degrees=50), dict(translate=(.3,.3)), dict(scale=[.7,1.4])))
    alike(drawn.angle[drawn.angle!=0], [o[0] for o in angle])
    alike(drawn.scale[drawn.scale!=1], [o[2] for o in scale])
    shifted = (drawn.angle==0) & (drawn.scale==1) # one pixel in 450 was drawn to stay where it is
    for k,mine in enumerate((drawn.right, drawn.down)):
        other = np.array([o[1][k] for o in shift])
        alike(mine[shifted], other)
        assert {*mine[shifted]}=={*other} # every whole number of pixels up to the largest, and no other
    jitter = T.ColorJitter(.4, .4, .4)
    factors = np.array([jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, None)[1:4]
                        for _ in range(N)])
    for k in range(3): alike(drawn.colour[:,k], factors[:,k])

def test_a_large_jitter_is_cut_off_as_torchvision_s():
    jitter = T.ColorJitter(1., 1., 1.)
    drawn = draw_moves(N, 8, 8, jitter=1.).colour
    assert jitter.brightness==[0,2] or jitter.brightness==(0,2)
    assert drawn.min()>=0 and drawn.max()<=2 and drawn.min()<.01 and drawn.max()>1.99

def test_flips_and_choices():
    drawn = draw_moves(N, 32, 32, flip='both', scale=[.5,.9], shift=.4, rotate=90)
    for o in drawn.across,drawn.over,drawn.across^drawn.over: assert binomtest(int(o.sum()), N, .5).pvalue>1e-3
    kinds = drawn.scale!=1,drawn.angle!=0,(drawn.scale==1)&(drawn.angle==0)
    assert chisquare([o.sum() for o in kinds]).pvalue>1e-3
    for o in kinds: assert binomtest(int(drawn.across[o].sum()), int(o.sum()), .5).pvalue>1e-3 # each by itself
    assert not ((drawn.right!=0) & ~kinds[2]).any()
    for flip,across,over in ('horizontal',1,0),('vertical',0,1),('none',0,0):
        o = draw_moves(99, 8, 8, flip=flip)
        assert (o.across.any(),o.over.any())==(across,over)

# Pixels

policies = {
    'flips': dict(flip='both'),
    'shift': dict(shift=.15),
    'scale': dict(scale=[.6,1.5]),
    'rotate': dict(rotate=60),
    'all moves': dict(flip='horizontal', scale=[.9,1.2], shift=.1, rotate=30),
    'colours': dict(jitter=.25),
    'all': dict(flip='both', scale=[.9,1.2], shift=.1, rotate=30, jitter=.25),
}

@pytest.mark.thinned(3)
@pytest.mark.parametrize('policy', policies.values(), ids=policies)
def test_pixels_have_the_mean_and_variance_of_items(policy):
    """Of each pixel over N draws: within five standard errors, and the grey levels that 8 bits cost torchvision: it
    rounds once for a move, and cuts off fractions three times for colours"""
    levels = (1 + 2.5*('jitter' in policy))/255
    # colours that stay in range: the linear form cuts off once, torchvision after each step
    im = image(12, 12, *((100,150) if 'jitter' in policy else (0,256)))
    tfm, = augmentation(**policy)
    items = torch.stack([image2tensor(tfm((im,0), split_idx=0)[0]) for _ in range(N)])/255
    batch = batch_augmentation(**policy)(TensorImage(image2tensor(im).repeat(N,1,1,1)/255), split_idx=0)
    items,batch = (o.as_subclass(torch.Tensor).double() for o in (items, batch))
    spread = (items.var(0)+batch.var(0))/N
    assert ((items.mean(0)-batch.mean(0)).abs() <= 5*spread.sqrt()+levels).all()
    def squares(o): return (o-o.mean(0))**2
    of_variance = ((squares(items).var(0)+squares(batch).var(0))/N).sqrt()
    assert ((items.var(0)-batch.var(0)).abs() <= 5*of_variance+2*levels*items.std(0)+levels**2).all()

@pytest.mark.parametrize('height,width', [(12,12), (9,20)])
def test_each_image_is_moved_as_torchvision_moves_it(height, width):
    im = image(height, width)
    draws = draw_moves(300, height, width, flip='both', scale=[.5,2.], shift=1., rotate=180)
    got = moved(image2tensor(im).repeat(300,1,1,1)/255, draws)*255
    rows = zip(*(o.tolist() for o in draws[:6]))
    for x,(across,over,scale,right,down,angle) in zip(got, rows):
        want = T.functional.hflip(im) if across else im
        if over: want = T.functional.vflip(want)
        want = T.functional.affine(want, angle, [right,down], scale, [0.,0.],
                                   interpolation=T.InterpolationMode.BILINEAR)
        exact = scale==1 and angle==0
        assert (x-image2tensor(want)).abs().max() <= (1e-4 if exact else 1.5)

def test_shifts_and_flips_are_the_same_on_other_devices():
    draws = draw_moves(50, 9, 14, flip='both', shift=.9)
    x = torch.rand(50, 3, 9, 14)
    want = augment._placed_one_by_one(x, draws)
    for o in x,x.to(memory_format=torch.channels_last): assert torch.equal(augment._placed_at_once(o, draws), want)
    assert torch.equal(augment._placed_one_by_one(x.to(memory_format=torch.channels_last), draws), want)
    assert torch.equal(moved(x.bfloat16(), draws), want.bfloat16())
    assert torch.equal(moved(x.double(), draws), want.double())

def test_colours_stay_in_range():
    x = torch.rand(64, 3, 8, 8)
    y = coloured(x, draw_moves(64, 8, 8, jitter=1.).colour)
    assert y.min()==0 and y.max()==1
    assert torch.equal(coloured(x, np.ones((64,3))), x)
    grey = coloured(x, np.tile([1.,1.,0.], (64,1)))
    torch.testing.assert_close(grey[:,0], grey[:,2])
    flat = coloured(x, np.tile([1.,0.,1.], (64,1)))
    torch.testing.assert_close(flat.flatten(1).std(1), torch.zeros(64), atol=1e-6, rtol=0)

def test_colours_are_those_of_pillow_one_after_the_other():
    "On an image that stays in range; each of Pillow's three steps cuts off fractions of a grey level"
    im,factors = image(20, 20, 80, 160),np.array([[1.3,.7,1.4], [.8,1.2,.5], [1.2,.3,1.]])
    got = coloured(image2tensor(im).repeat(3,1,1,1)/255, factors)*255
    for x,row in zip(got, factors):
        want = im
        for enhance,o in zip((ImageEnhance.Brightness,ImageEnhance.Contrast,ImageEnhance.Color), row):
            want = enhance(want).enhance(o)
        assert (x-image2tensor(want)).abs().max()<3

# What is paid for

def test_what_stays_is_the_same_to_the_last_bit():
    x = torch.rand(200, 3, 8, 8)
    draws = draw_moves(200, 8, 8, flip='horizontal', scale=[.5,1.5], shift=.1, rotate=30)
    still = ~(draws.across | (draws.scale!=1) | (draws.angle!=0) | (draws.right!=0) | (draws.down!=0))
    assert 0<still.sum()<100
    y = moved(x, draws)
    assert torch.equal(y[still], x[still]) and y is not x
    assert moved(x, draw_moves(200, 8, 8)) is x
    assert len(moved(x[:0], draw_moves(0, 8, 8)))==0

def test_only_images_that_need_it_are_interpolated():
    x = TensorImage(torch.rand(60, 3, 8, 8))
    with mock.patch.object(F, 'grid_sample', side_effect=AssertionError):
        batch_augmentation('both', shift=.2, jitter=.2)(x, split_idx=0)
    with mock.patch.object(F, 'grid_sample', side_effect=F.grid_sample) as sampled:
        batch_augmentation('both', shift=.2, rotate=10)(x, split_idx=0)
        n = len(sampled.call_args.args[0])
        assert sampled.call_count==1 and 15<n<45
        batch_augmentation(rotate=10)(x, split_idx=0)
        assert len(sampled.call_args.args[0])==60

def test_the_batch_that_came_in_is_as_it_was():
    x = torch.rand(20, 3, 8, 8)
    before = x.clone()
    for policy in policies.values(): batch_augmentation(**policy)(TensorImage(x), split_idx=0)
    assert torch.equal(x, before)

# The transform

def test_training_only_and_images_only():
    tfm = batch_augmentation('both', rotate=20, jitter=.2)
    x,y = TensorImage(torch.rand(8, 3, 8, 8)),TensorCategory(torch.arange(8))
    for part in 1,None: assert tfm((x,y), split_idx=part)[0] is x
    x1,y1 = tfm((x,y), split_idx=0)
    assert type(x1) is TensorImage and y1 is y and not torch.equal(x1, x)
    with pytest.raises(TypeError, match='batch_augmentation needs images in'): tfm((x*255).byte(), split_idx=0)

def test_pytorch_s_generator_decides():
    tfm = batch_augmentation('both', scale=[.8,1.2], shift=.2, rotate=20, jitter=.2)
    x = TensorImage(torch.rand(8, 3, 8, 8))
    def made(seed):
        torch.manual_seed(seed)
        np.random.seed(seed+7)
        return tfm(x, split_idx=0)
    assert torch.equal(made(1), made(1)) and not torch.equal(made(1), made(2))

def test_policies_without_a_form_for_batches():
    assert batch_augmentation(flip='both', hue=.1) is None and batch_augmentation() is None
    assert augmentation()==[] and len(augmentation(flip='both', hue=.1))==1
    for bad in dict(flip='up'),dict(scale=[2,1]),dict(shift=-1),dict(rotate=181),dict(jitter=2),dict(hue=1):
        with pytest.raises(ValueError) as a: augmentation(**bad)
        with pytest.raises(ValueError) as b: batch_augmentation(**bad)
        assert str(a.value)==str(b.value) and f"The '{next(iter(bad))}' parameter of augmentation" in str(a.value)

def test_an_image_of_the_item_transform():
    tfm, = augmentation('horizontal')
    im = Image.fromarray(np.zeros((4,4,3), np.uint8))
    out = tfm((PILImage.create(im),3), split_idx=0)
    assert type(out[0]) is PILImage and out[1]==3
