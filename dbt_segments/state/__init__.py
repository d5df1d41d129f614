"""The state, in a schema of its own in the warehouse: the only writer of that schema besides the dbt macro.

schema.py   the tables that users can query, their version, and the state's id
store.py    pointers and logs: what is committed, and nothing else, exists
ledger.py   what a destination holds of us, as SQL over immutable tables
pending.py  generations: differences written ahead, numbered in batches
fold.py     outcomes of batches -> a new ledger
locks.py    one writer per audience: leases and tokens
"""
