"""Runs in separate processes.

pool      runs several jobs at a time on this machine
preload   imports that all workers share
process   calls a function in a separate process
"""
