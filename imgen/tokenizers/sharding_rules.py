"""How the weights of tokenizers are split over a mesh: those of transformers, which may be large, over fsdp
and tensor; convolutions, codebooks and discriminators are on every device."""

SHARDING_RULES = [
    (r"^params/.*block_\d+/attention/qkv/kernel$", ("fsdp", "tensor", None, None)),  # [D, N, 3, H]
    (r"^params/.*blocks/attention/qkv/kernel$", ("fsdp", None, "tensor", None)),  # [D, 3, N, H]
    (r"^params/.*/attention/out/kernel$", ("tensor", None, "fsdp")),  # [N, H, D]
    (r"^params/.*blocks/qkv/kernel$", ("fsdp", None, "tensor")),  # [D, 3, D]
    (r"^params/.*gate_up/kernel$", ("fsdp", None, "tensor")),  # [D, 2, F]
    (r"^params/.*_attention/(query|key|value)/kernel$", ("fsdp", "tensor")),  # [D, D]
    (r"^params/.*(_attention|blocks)/out/kernel$", ("tensor", "fsdp")),  # [D, D]
    (r"^params/.*up/kernel$", ("fsdp", "tensor")),  # [D, F]
    (r"^params/.*down/kernel$", ("tensor", "fsdp")),  # [F, D]
    (r"^params/.*blocks/modulation/linear/kernel$", ("fsdp", None, None, "tensor")),  # [D, 2, 6, D]
    (".*", ()),
]
