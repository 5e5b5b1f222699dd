# Nothing here installs or downloads. An environment in .venv, as README makes one, is used before others.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo test notebooks readme docs bench

demo:
	balmix-demo

test:
	pytest

notebooks:
	jupyter nbconvert --to notebook --execute --inplace nbs/*.ipynb nbs/*/*.ipynb
	nbdev-clean

readme:
	python3 docs/readme.py

docs:
	python3 docs/build.py

# An aim that is missed ends a script with an error; the others are measured all the same, and the page shows it.
# operating_points.py and claims.py are not among them: they compare methods, not seconds, and take an hour.
bench:
	-python3 tests/benchmarks/epochs.py --out docs/measured
	-python3 tests/benchmarks/loading.py --out docs/measured
	-python3 tests/benchmarks/comparisons.py --out docs/measured
	-python3 tests/benchmarks/parts.py --out docs/measured
	-python3 tests/benchmarks/arithmetic.py --out docs/measured
	-python3 tests/benchmarks/draws.py --out docs/measured
	-python3 tests/benchmarks/decoding.py --out docs/measured
	-python3 tests/benchmarks/metrics.py --out docs/measured
	-python3 tests/benchmarks/reports.py --out docs/measured
	-python3 tests/benchmarks/growing.py --out docs/measured
	python3 docs/performance.py
