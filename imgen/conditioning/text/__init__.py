"""Texts -> tokens (`tokens`, `words`, `subwords`) -> features (`encoder`; `t5`, `bert`, `lm`)."""
