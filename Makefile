# Nothing here installs or downloads. An environment in .venv, as README makes one, is used before others.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo test notebooks readme docs

demo:
	balmix-demo

test:
	pytest

notebooks:
	jupyter nbconvert --to notebook --execute --inplace nbs/*.ipynb nbs/tutorials/*.ipynb
	nbdev-clean

readme:
	python3 docs/readme.py

docs:
	python3 docs/build.py
