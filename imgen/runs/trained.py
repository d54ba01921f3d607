"""Names of before for what stands in `runs.experiment` and `runs.run` now."""

from imgen.runs.experiment import Experiment
from imgen.runs.run import CHECKPOINTS, Run, TrainedGenerator, TrainedTokenizer, fingerprint

__all__ = ["CHECKPOINTS", "TrainedGenerator", "TrainedTokenizer", "fingerprint"]


def build_tokenizer(settings):
    experiment = Experiment.build(settings)
    return experiment.tokenizer, experiment.spec


def load_tokenizer(run, which="latest"):
    return Run(run, which).tokenizer()


def load_generator(run, which="latest"):
    return Run(run, which).generator()


def build_generator(settings, spec):
    return Experiment.build(settings).model
