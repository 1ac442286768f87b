"""Gives each example of the gallery the state of a process that has just begun."""

import torch

_THREADS = torch.get_num_threads()


def reset(gallery_conf: dict, file: str) -> None:
    """Undoes what an example before this one may have switched for the whole process."""
    torch.set_grad_enabled(True)
    torch.set_num_threads(_THREADS)
