"""Register adapters: one small module for each way a cash register talks.

An adapter translates its register's protocol into calls of `counter.Counter` and back; it holds no
rule and no state of a sale. `local_json` is the plain one.
"""
