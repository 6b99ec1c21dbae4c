"""The command line: one file a verb. No torch at import.

ask            the verbs that ask before training
child_process  what a verb runs in a process of its own
console        lines on the terminal
dry_run        what a run would cost
main           the `lowbit` command
measure        lowbit measure
options        options that several verbs share
plan           lowbit plan
predict        lowbit predict and guide
predict_study  lowbit predict STUDY
research       lowbit research
resolve        lowbit predict --until-resolved
run            lowbit run and adapt
study          lowbit compare, draw, report, status, validate
tools          lowbit export, freeze, doctor
"""
