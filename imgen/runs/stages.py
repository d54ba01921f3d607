"""Names of before for what stands in `runs.experiment` and `runs.data` now."""

from imgen.runs.experiment import Experiment


def evaluation_task(name, settings):
    return Experiment.build(settings).task(name)


def open_source(settings, which):
    data = Experiment.build(settings).data
    return data.train if which == "train" else data.held_out


def images_of(settings, where, num=None):
    return Experiment.build(settings).data.images(where, num)


def eval_transform(settings):
    data = Experiment.build(settings).data
    return data.held_out.eval_transform(data.image_size, settings.data.get("crop", "random"))


def reading(settings):
    return Experiment.build(settings).data.reading
