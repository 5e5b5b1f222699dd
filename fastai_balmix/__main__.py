"`python -m fastai_balmix` is `balmix-demo`"
from fastai_balmix.demo import demo

demo()
