"""Published checkpoints become work directories, and work directories folders for others: `python -m gm_jax.pretrained --help`.

Neither PyTorch nor diffusers is needed, and nothing that a file says is run (`gm_jax.pretrained.unpickle`).
"""
