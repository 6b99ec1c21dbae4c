"""Running a candidate's code, confined and measured.

artefact       reads and checks the model file that a candidate exports
evaluator      scores an artefact in its own process
jail           confines the candidate's code: Landlock and seccomp
process_watch  limits time, memory and processes from outside
sandbox        runs a program in its own folder and environment
sealed_run     one run of a candidate
text_split     training, judging and final text
"""
