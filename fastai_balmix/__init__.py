"""Modules:

- `fastai_balmix.all`: The everyday names: `from fastai_balmix.all import *` after `from fastai.vision.all import *` shadows no fastai name.
- `fastai_balmix.callback.checkpoint`: A fit that can be killed at any moment, and resumes from its last epoch as though nothing had happened.
- `fastai_balmix.callback.fitcheck`: Two mistakes that leave no trace in a table of results, found before the first batch.
- `fastai_balmix.callback.mixup`: Balanced-MixUp in one line: `learn.fit_one_cycle(5, cbs=BalancedMixUp())`.
- `fastai_balmix.callback.rivals`: Progressive sampling and Remix, the callbacks that Balanced-MixUp is compared with.
- `fastai_balmix.callback.show`: The imbalance of the data, and what mixing does to it and to the images, drawn before training.
- `fastai_balmix.checks`: One sentence for every bad argument: the parameter, its owner, what is allowed, and what came instead.
- `fastai_balmix.classifier`: Balance only the last layer of a trained network.
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
- `fastai_balmix.loaders.cache`: What is constant of every item is made once, for all workers and epochs.
- `fastai_balmix.loaders.draws`: How many images has each class, how often should each be drawn, and drawing so.
- `fastai_balmix.loaders.extend`: What a loader's items are, without opening one, and loaders that draw them by class.
- `fastai_balmix.loaders.labels`: Read the labels of a loader without opening an image.
- `fastai_balmix.loaders.pairing`: One loader whose every batch holds what a plain epoch would bring, followed by class-balanced partners.
- `fastai_balmix.loaders.store`: Items as bytes, in memory that all worker processes share, of a size that is never passed.
- `fastai_balmix.losses`: Losses for rare classes and for grades: focal, class-balanced, logit-adjusted, smoothed, cost-sensitive, kappa.
- `fastai_balmix.metrics.intervals`: How sure is a score, and is one network really better than another?
- `fastai_balmix.metrics.learner`: Scores for imbalanced classes while a network trains, all from one confusion matrix.
- `fastai_balmix.metrics.scores`: What a confusion matrix, or a table of probabilities, says about imbalanced classes.
- `fastai_balmix.report.answers`: What can be said of a network's answers: who gained and who paid, one class against the rest, the worst mistakes.
- `fastai_balmix.report.card`: What a report says, as a plain dictionary: from the predictions of a comparison, or of one learner.
- `fastai_balmix.report.figures`: What a trained network gets right and wrong, and for whom: figures of tables that were computed before.
- `fastai_balmix.report.page`: One page that says how a comparison, or a network, came out, and for whom: to be opened, printed, sent, and put beside the model.
- `fastai_balmix.report.sections`: From the dictionary of a report to what stands on its page: headings, sentences, figures and tables."""

__version__ = "0.0.1"
