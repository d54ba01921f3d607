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
