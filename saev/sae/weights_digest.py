"""Which dictionary it is: a hash of its numbers, whatever the folder is called."""

import hashlib

from torch import nn


def weights_sha256(sae: nn.Module) -> str:
    """SHA-256 over the names, shapes and float32 values of a dictionary's tensors.

    The same before and after saving, and on every device.
    """
    found = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        values = tensor.detach().float().cpu().contiguous()
        found.update(f"{name} {tuple(values.shape)}\n".encode())
        found.update(values.numpy().tobytes())
    return found.hexdigest()
