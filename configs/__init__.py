"""One file per experiment, shipped as `gm_jax.configs`. `get_config(preset)` returns a ConfigDict of plain data."""
