"""Runs in processes of their own.

pool      several runs at a time on this machine
preload   what every worker needs, imported once
process   one function call in a process, with its errors as data
"""
