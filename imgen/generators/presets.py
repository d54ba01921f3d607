"""Published sizes of generators."""

# LlamaGen `autoregressive/models/gpt.py`. PAR and RandAR use the same table, NAR a block more a head.
LLAMAGEN = {
    "B": dict(depth=12, heads=12, width=768),
    "L": dict(depth=24, heads=16, width=1024),
    "XL": dict(depth=36, heads=20, width=1280),
    "XXL": dict(depth=48, heads=24, width=1536),
    "XXXL": dict(depth=48, heads=40, width=2560),
    "1B": dict(depth=22, heads=32, width=2048),
    "3B": dict(depth=24, heads=32, width=3200),
    "7B": dict(depth=32, heads=32, width=4096),
}

# NAR: depth counts the trunk; every further axis adds a block and an exit (`NAR-images`, `NAR-videos`).
NAR = {
    "B": dict(depth=12, heads=12, width=768),
    "M": dict(depth=18, heads=16, width=1024),
    "L": dict(depth=24, heads=16, width=1024),
    "XL": dict(depth=36, heads=20, width=1280),
    "XXL": dict(depth=48, heads=24, width=1536),
}
NAR_VIDEO = {
    "L": dict(depth=24, heads=16, width=1024, position="learned"),
    "LP": dict(depth=30, heads=20, width=1280, position="learned"),
}

# ELM `llama/ar_model.py`; parts of c bits: "2-10" is two sub-codes of ten.
ELM = {
    "L": dict(depth=24, heads=16, width=1024),
    "XL": dict(depth=36, heads=20, width=1280),
    "XXL": dict(depth=48, heads=24, width=1536),
    "2B": dict(depth=48, heads=28, width=1792),
}

# Instella-T2I `models/ar_model.py`: 128 tokens of 64 bits, text features of 16 layers.
INSTELLA = dict(
    depth=16,
    heads=16,
    width=2048,
    hidden=8192,
    ffn="gelu",
    qk_norm=True,
    position="block",
    norm_eps=1e-6,
    init_std="torch",
    dropout=0.0,
)

# Instella-T2I `models/diff_model.py`.
INSTELLA_DIFFUSION = dict(depth=16, heads=16, width=2048, hidden=8192)

# Token-Shuffle's LLaMA; its text tokens stand in the same sequence. The image slots have 2-D rotary positions
# (windows of a grid) and the text none, where the language model counts along the sequence (specification,
# section 3, d): weights of a language model would not fit as they are.
TOKEN_SHUFFLE = dict(depth=20, heads=24, width=3072, hidden=8192, cond_rope="identity", dropout=0.0)

# xAR `models/xar.py`: blocks of its two halves. Official parameters 172.64, 608.40 and 1186.0 million.
XAR = {
    "B": dict(depth=(8, 8), heads=12, width=768),
    "L": dict(depth=(16, 16), heads=16, width=1024),
    "H": dict(depth=(20, 20), heads=16, width=1280),
}

# MaskGIT `maskgit/configs/maskgit_class_cond_config.py`, and TiTok's generators: 1d-tokenizer
# `modeling/maskgit.py`, `configs/training/generator/maskgit.yaml`.
BERT_SIZE = dict(depth=24, heads=16, hidden=3072)
MASKGIT = dict(
    plan="masked",
    plan_options=dict(),
    width=768,
    scheme_options=dict(ratio="cosine", least=0.5, per_sample=True),
    head_options=dict(tied=True, label_smoothing=0.1),
    backbone="bert",
    backbone_options=dict(activation="gelu_tanh", transform=True, **BERT_SIZE),
    dropout=0.1,
)
TITOK = dict(
    plan="masked",
    plan_options=dict(),
    scheme_options=dict(ratio="arccos", shown_weight=0.1),
    head_options=dict(bias=True, output_std=0.02, label_smoothing=0.1),
)
IMAGE_BERT = dict(
    **TITOK,
    width=768,
    backbone="bert",
    backbone_options=dict(token_types=2, **BERT_SIZE),
    dropout=0.1,
)
UVIT_BERT = dict(
    **TITOK,
    width=1024,
    backbone="uvit",
    backbone_options=dict(depth=20, heads=16, hidden=4096),
    dropout=0.0,
)

# MAR `models/mar.py` and README: depths of encoder and decoder, and the head.
MAR_MODEL = dict(
    plan="masked",
    plan_options=dict(),
    scheme_options=dict(ratio="truncated_normal", rounding="ceil", shared=True),
    head="diffusion",
    backbone="mar",
    init_std="xavier",
    dropout=0.1,
)
MAR = {
    "B": dict(width=768, backbone_options=dict(depth=(12, 12), heads=12, hidden=3072)),
    "L": dict(width=1024, backbone_options=dict(depth=(16, 16), heads=16, hidden=4096)),
    "H": dict(width=1280, backbone_options=dict(depth=(20, 20), heads=16, hidden=5120)),
}

# RAR `modeling/rar.py` and `configs/training/generator/rar.yaml`; sizes: README_RAR.md.
RAR_BLOCK = dict(
    plan="raster",
    plan_options=dict(),
    scheme="annealed",
    head_options=dict(bias=True, output_std=0.02),
    position="target_aware",
    modulation="slots",
    norm="layer",
    norm_eps=1e-6,
    qk_norm="layer",
    use_bias=True,
    ffn="gelu_exact",
    dropout=0.1,
    inner_dropout=True,
)
RAR = {
    "B": dict(depth=24, heads=16, width=768, hidden=3072),
    "L": dict(depth=24, heads=16, width=1024, hidden=4096),
    "XL": dict(depth=32, heads=16, width=1280, hidden=5120),
    "XXL": dict(depth=40, heads=16, width=1408, hidden=6144),
}
