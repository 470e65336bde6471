"""A small shop whose cash register redeems care vouchers."""
