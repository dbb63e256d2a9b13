"""Parsers given anything: what each of them reads is a target, which gives a value or one of our own errors.

    python -m tests.fuzz                    all targets, a million executions and more (`make fuzz`)
    python -m tests.fuzz http --runs 5000   one of them

`corpus/` holds inputs of each target that reach what others do not, `findings/` those that once broke one.
"""
