"`python -m fastai_balmix` is `balmix-demo`"
from fastai_balmix.demo import demo

if __name__=='__main__': demo()
