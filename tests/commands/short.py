"""The quickstart in its shortest form. Tests that train this very one compile it once between them."""

QUICK = ["--config", "configs/quickstart.py:smoke"]
SHORT = [
    "--config.data.train.num=32", "--config.data.eval.num=16", "--config.tokenizer.ch=8",
    "--config.tokenizer.groups=4", "--config.tokenizer.z_channels=8", "--config.generator.depth=1",
    "--config.train.tokenizer.steps=2", "--config.train.generator.steps=1",
    "--config.train.generator.sample_metrics=None", "--config.train.generator.num_samples=2",
]  # fmt: skip
