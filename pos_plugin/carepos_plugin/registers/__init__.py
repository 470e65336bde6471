"""Register adapters: one small module for each way a cash register talks."""
