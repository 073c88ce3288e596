"""Batches: many models, budgets and methods from one job file, over a night that may be interrupted.

    job file --read_jobs--> Jobs --runs_of--> Runs --plan--> tasks, each one search and all its runs --run--> folders

A task is one process that traces, calibrates and searches once and then makes each of its runs. Whatever is finished
is on the disk under its final name, so the same command goes on where the last one stopped.
"""
