"""The POS plugin: a local service beside the cash register."""
