"""The head, its softmax and the cross-entropy as one operation."""

__all__: list[str] = []
