"""The command line: one file for each verb. No torch at import.

adapt      lowbit adapt
compare    lowbit compare
console    lines on the terminal
doctor     lowbit doctor
draw       lowbit draw
evaluate   lowbit evaluate
export     lowbit export
formats    lowbit formats
freeze     lowbit freeze
guide      lowbit guide
main       the `lowbit` command, assembled from its verbs
measure    lowbit measure
options    options that several verbs share
pack       lowbit pack
plan       lowbit plan
predict    lowbit predict
report     lowbit report
research   lowbit research
results    lowbit results
run        lowbit run
status     lowbit status
unpack     lowbit unpack
validate   lowbit validate
text/      results as tables and sentences
"""
