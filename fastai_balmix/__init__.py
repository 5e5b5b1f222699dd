"""Modules:

- `fastai_balmix.checks`: One sentence for every bad argument: whose it is, which it is, what is allowed, what came.
- `fastai_balmix.longtail`: A small long-tailed data set that needs no network, and the arithmetic to cut one from any balanced set.
- `fastai_balmix.sampling`: How many images has each class, how often should each be drawn, and loaders that draw so."""

__version__ = "0.0.1"
