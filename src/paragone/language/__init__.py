"""Language models: training, tuning, serving, decoding."""

__all__: list[str] = []
