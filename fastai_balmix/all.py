"""The public names: `from fastai_balmix.all import *` after `from fastai.vision.all import *` shadows none of fastai's.

`fastai_balmix.report` is imported for the methods it adds, such as `BalancedMixUp.show`; its functions stay in their module, their
names being too general for `import *`."""
from fastai_balmix import report
from fastai_balmix.callback import *
from fastai_balmix.longtail import *
from fastai_balmix.pairing import *
from fastai_balmix.sampling import *
