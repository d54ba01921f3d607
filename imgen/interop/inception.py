"""FID's Inception: state dicts of pytorch-fid and torch-fidelity <-> our parameters.

Both projects publish the same weights (pt_inception-2015-12-05-6726825d.pth,
weights-inception-2015-12-05-6726825d.pth). Layers have the same names there and here.
"""

from imgen.evaluation.networks.inception import SHA256, abstract_params, conv_paths
from imgen.interop.system import by_table
from imgen.interop.table import CONV, Row, layer

IGNORED = (r".*\.num_batches_tracked",)
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def rows() -> list[Row]:
    """The conversion table."""
    table = layer("fc", "fc")
    for path in conv_paths():
        official = path.replace("/", ".")
        table.append(Row(f"{official}.conv.weight", f"{path}/kernel", CONV))
        table += [Row(f"{official}.bn.{k}", f"{path}/{v}") for k, v in NORM.items()]
    return table


SYSTEM = by_table(rows, abstract_params, IGNORED, sha256=SHA256)
