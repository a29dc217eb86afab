"""One file per experiment. `get_config(preset)` returns a ConfigDict of plain data."""
