"""The local stack: a supervisor that starts stores, engine, gateway and worker, watches them and leaves nothing behind.

`environments`, `failure`, `lifeline` and `tap` need nothing but the standard library: `install.py` runs them before
any package is installed.
"""
