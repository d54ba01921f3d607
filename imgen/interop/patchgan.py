"""LlamaGen's PatchGAN discriminator <-> our `PatchGAN` parameters and running statistics.

Source: FoundationVision/LlamaGen, tokenizer/tokenizer_image/discriminator_patchgan.py. Official keys
are `main.{n}`: conv 0, then for each further layer conv 2 + 3(i-1) and its norm, and the last conv.
"""

from imgen.interop.table import CONV, Row

IGNORED = (r"main\.\d+\.num_batches_tracked",)


def rows(n_layers: int) -> list[Row]:
    """The table for a tree {"params": ..., "stats": ...} of a PatchGAN with `n_layers`."""
    table = [
        Row("main.0.weight", "params/conv_0/kernel", CONV),
        Row("main.0.bias", "params/conv_0/bias"),
    ]
    for i in range(1, n_layers + 1):
        conv = 3 * i - 1
        norm = f"main.{conv + 1}"
        table += [
            Row(f"main.{conv}.weight", f"params/conv_{i}/kernel", CONV),
            Row(f"{norm}.weight", f"params/norm_{i}/scale"),
            Row(f"{norm}.bias", f"params/norm_{i}/bias"),
            Row(f"{norm}.running_mean", f"stats/norm_{i}/mean"),
            Row(f"{norm}.running_var", f"stats/norm_{i}/var"),
        ]
    last = n_layers + 1
    return table + [
        Row(f"main.{3 * last - 1}.weight", f"params/conv_{last}/kernel", CONV),
        Row(f"main.{3 * last - 1}.bias", f"params/conv_{last}/bias"),
    ]
