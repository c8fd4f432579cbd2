"""The frame around every experiment: its command line, its chunks of work, and its result file.

`experiment` says what the module of an experiment has, and `frame` runs one.
"""
