"""Modules:

- `fastai_balmix.all`: The everyday names: `from fastai_balmix.all import *` after `from fastai.vision.all import *` shadows none of fastai's.
- `fastai_balmix.callback.checkpoint`: A fit that can be killed at any moment, and goes on from its last epoch as though nothing had happened.
- `fastai_balmix.callback.fitcheck`: Two mistakes that leave no trace in a table of results, found before the first batch.
- `fastai_balmix.callback.mixup`: Balanced-MixUp in one line: `learn.fit_one_cycle(5, cbs=BalancedMixUp())`.
- `fastai_balmix.callback.show`: What a network is shown: the imbalance, and what mixing does to it and to the images.
- `fastai_balmix.checks`: One sentence for every bad argument: whose it is, which it is, what is allowed, what came.
- `fastai_balmix.classifier`: The body of a network trained on the data as they come, and its last layer balanced afterwards.
- `fastai_balmix.compare.methods`: Every method of the paper's tables, and its rivals, by name; and yours beside them.
- `fastai_balmix.compare.plan`: Does it help on my data? Methods × networks × folds × seeds, as one call or one command, that can be stopped and goes on.
- `fastai_balmix.compare.runs`: One training of a comparison: from data, method and network to scores and predictions on disk, once, whatever happens on the way.
- `fastai_balmix.compare.summary`: Does it help? Every method at three operating points, with the interval and the test that folds and seeds allow, and a sentence that claims no more.
- `fastai_balmix.datasets.longtail`: A small long-tailed data set that needs no network, and the arithmetic to cut one from any balanced set.
- `fastai_balmix.datasets.sources`: Readers for the paper's data sets, for MedMNIST and Fashion-MNIST, and for a folder or a table of your own.
- `fastai_balmix.datasets.splits`: Who is held out: patients never on two sides, and every class left for training.
- `fastai_balmix.datasets.table`: A table of images with classes, patients and parts, checked before training, and the loaders made from it.
- `fastai_balmix.demo`: `balmix-demo` trains three networks in three ways each, and says what came out.
- `fastai_balmix.files`: Write a file whole, or not at all.
- `fastai_balmix.inference.prior`: The mean of an image and its mirror image, and moving a trained network to another operating point.
- `fastai_balmix.loaders.blame`: Name the item and the file that could not be loaded.
- `fastai_balmix.loaders.cache`: Cache the deterministic part of each item, shared by all workers.
- `fastai_balmix.loaders.draws`: Class counts, sampling probabilities, and a sampler.
- `fastai_balmix.loaders.extend`: A copy of a loader that does one thing differently, whatever class the loader is of.
- `fastai_balmix.loaders.labels`: Read the labels of a loader without opening an image.
- `fastai_balmix.loaders.pairing`: A loader of batches that hold the items of a plain epoch, followed by class-balanced partners.
- `fastai_balmix.loaders.store`: Items as bytes, in memory of a fixed size that all worker processes share.
- `fastai_balmix.loaders.weighted`: Loaders that draw each class with a chosen probability.
- `fastai_balmix.losses`: What a loss can do about rare classes and about grades: focal, class-balanced, logit-adjusted, smoothed, cost-sensitive and kappa losses.
- `fastai_balmix.metrics.intervals`: How sure is a score, and is one network really better than another?
- `fastai_balmix.metrics.learner`: Scores for imbalanced classes while a network trains, all from one confusion matrix.
- `fastai_balmix.metrics.scores`: What a confusion matrix, or a table of probabilities, says about imbalanced classes.
- `fastai_balmix.report.answers`: What can be said of a network's answers: who gained and who paid, one class against the rest, the worst mistakes.
- `fastai_balmix.report.card`: What a report says, as a plain dictionary: from the predictions of a comparison, or of one learner.
- `fastai_balmix.report.figures`: What a trained network gets right and wrong, and for whom: figures of tables that were computed before.
- `fastai_balmix.report.page`: One page that says how a comparison, or a network, came out, and for whom: to be opened, printed, sent, and put beside the model.
- `fastai_balmix.report.sections`: From the dictionary of a report to what stands on its page: headings, sentences, figures and tables."""

__version__ = "0.0.1"
