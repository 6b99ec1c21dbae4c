"""Running a candidate's code, confined and measured.

artefact       the file that a candidate leaves, read with bounds
evaluator      scores an artefact in its own process
jail           confines the candidate's code: Landlock and seccomp
process_watch  time, memory and processes, watched from outside
sandbox        the folder and environment a candidate sees
sealed_run     one run of a candidate
text_split     training, judging and final text
"""
