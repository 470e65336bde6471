"""The ledger's reference server: vouchers, double-entry postings, terminals, settlement."""
