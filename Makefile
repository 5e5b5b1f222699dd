# Nothing here installs or downloads. An environment in .venv, as README makes one, is used before others.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo test readme

demo:
	balmix-demo

test:
	pytest

readme:
	python3 docs/readme.py
