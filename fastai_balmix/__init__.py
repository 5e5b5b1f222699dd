"""Modules:

- `fastai_balmix.all`: The public names: `from fastai_balmix.all import *` after `from fastai.vision.all import *` shadows none of fastai's.
- `fastai_balmix.callback`: Balanced-MixUp in one line: `learn.fit_one_cycle(5, cbs=BalancedMixUp())`.
- `fastai_balmix.checks`: One sentence for every bad argument: whose it is, which it is, what is allowed, what came.
- `fastai_balmix.demo`: `balmix-demo` trains three networks in three ways each, and says what came out.
- `fastai_balmix.loaders`: What a loader's items are, without opening one, and loaders that draw them by class.
- `fastai_balmix.longtail`: A small long-tailed data set that needs no network, and the arithmetic to cut one from any balanced set.
- `fastai_balmix.pairing`: One loader whose every batch holds what a plain epoch would bring, followed by class-balanced partners.
- `fastai_balmix.report`: What people look at before they train: the imbalance, and what mixing does to it and to the images.
- `fastai_balmix.sampling`: How many images has each class, how often should each be drawn, and drawing so."""

__version__ = "0.0.1"
